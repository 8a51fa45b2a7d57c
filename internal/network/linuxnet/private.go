package linuxnet

import (
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mvm/internal/egress"
)

// refusedFor is for how long it is known what a guest was refused.
const refusedFor = time.Hour

// alone keeps an instance of one user and others of its tenant apart where packets pass
// through the host. On the bridge its own table does, and the port's isolation.
func alone() []ruleDef {
	guest := in(setGuests, iifWith(dstIP())...)
	return []ruleDef{
		rule4("a user's instance reaches its gateways alone", guest, addrIn(setAlone, offIPSrc), addrNotIn(setHubs, offIPDst), drop()),
		rule4("gateways alone reach a user's instance", guest, addrIn(setAlone, offIPDst), addrNotIn(setHubs, offIPSrc), drop()),
	}
}

// privateChains close private networks twice: as the guest wrote the destination, where
// what is refused is also noted, and after anybody's NAT. What may pass returns.
func privateChains() []chainDef {
	return []chainDef{
		{family: famINet, name: "refuse", rules: []ruleDef{
			rule4("who is refused often gets no answer", refusedOften(), drop()),
			rule4("what was refused, to be told", remembered()),
			rule4("closed: see the pool's egress", unreachable()),
		}},
		{family: famINet, name: "private", rules: private(jump("refuse"))},
		{family: famINet, name: "private_forward", rules: private(drop())},
	}
}

func private(verdict match) []ruleDef {
	rules := []ruleDef{
		rule4("what the pool's egress allows", in(setEgress, flow()...), back()),
		rule4("names are asked of mvm", protocol(unix.IPPROTO_UDP), toPort(53), verdict),
		rule4("names are asked of mvm, over TCP too", protocol(unix.IPPROTO_TCP), toPort(53), verdict),
	}
	for _, p := range egress.Private() {
		rules = append(rules, rule4("closed: "+p.String(), toPrefix(p), verdict))
	}
	return rules
}

// hostChains keep the host's own users from guests: only mvm's processes begin connections.
func hostChains(callers []int) []chainDef {
	return []chainDef{{family: famINet, name: "output", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookOutput, rules: []ruleDef{
		rule("only mvm's users begin connections to guests", isBridge(expr.MetaKeyOIFNAME), ctState(stateNew), notOf(callers), drop()),
	}}}
}
