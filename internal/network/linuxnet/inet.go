package linuxnet

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Connection states as the kernel's bit mask.
const (
	stateInvalid     = 1
	stateEstablished = 2
	stateRelated     = 4
	stateNew         = 8
)

// inetChains see IP packets between a tenant's bridge, the host and the outside. With
// br_netfilter on they see packets within a bridge as well, which look as if they
// went from the bridge to itself.
func inetChains(cluster netip.Prefix, blocked []netip.Prefix, maxConns uint32) []chainDef {
	iif, oif := expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME
	filter := nftables.ChainTypeFilter
	return []chainDef{
		{family: famINet, name: "from_guest", rules: fromGuest(cluster, blocked)},
		{family: famINet, name: "limit", rules: []ruleDef{
			rule4("a guest cannot fill the host's connection table", ctState(stateNew), overConns(setConns, maxConns), drop()),
		}},
		{family: famINet, name: "input_from", rules: inputFrom()},
		{family: famINet, name: "forward_from", rules: forwardFrom(cluster, blocked)},
		{family: famINet, name: "forward_to", rules: forwardTo()},
		{family: famINet, name: "prerouting", kind: filter, hook: nftables.ChainHookPrerouting, prio: -300, rules: []ruleDef{
			rule("a port of a bridge is no way into the host", isTAP(iif), drop()),
			rule("what guests send", isBridge(iif), jump("from_guest")),
		}},
		{family: famINet, name: "input", kind: filter, hook: nftables.ChainHookInput, rules: []ruleDef{
			rule("a port of a bridge is no way into the host", isTAP(iif), drop()),
			rule("guests to the host", isBridge(iif), jump("input_from")),
			rule4("a tenant's gateway address is for the tenant and the host alone", isNotBridge(iif), notLoopback(),
				in(setHosts, netBytes(offIPDst, 4, reg1)), drop()),
		}},
		{family: famINet, name: "forward", kind: filter, hook: nftables.ChainHookForward, rules: []ruleDef{
			rule("guests to elsewhere", isBridge(iif), jump("forward_from")),
			rule("elsewhere to guests", isBridge(oif), jump("forward_to")),
		}},
		{family: famINet, name: "postrouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, prio: 100, rules: []ruleDef{
			rule("guests go out under the host's address", isIPv4(expr.CmpOpEq), isBridge(iif), isNotBridge(oif), masq()),
		}},
	}
}

// rule4 is a rule for IPv4 alone.
func rule4(why string, pieces ...match) ruleDef {
	return rule(why, append([]match{isIPv4(expr.CmpOpEq)}, pieces...)...)
}

func iifWith(loads ...expr.Any) []expr.Any {
	return append([]expr.Any{meta(expr.MetaKeyIIFNAME, reg1)}, loads...)
}

func oifWith(loads ...expr.Any) []expr.Any {
	return append([]expr.Any{meta(expr.MetaKeyOIFNAME, reg1)}, loads...)
}

func srcIP() expr.Any { return netBytes(offIPSrc, 4, reg2) }
func dstIP() expr.Any { return netBytes(offIPDst, 4, reg2) }

// honest are the first rules of every chain that takes packets from a bridge.
func honest() []ruleDef {
	return []ruleDef{
		rule("no IPv6", isIPv4(expr.CmpOpNeq), drop()),
		rule4("senders are instances of the bridge's tenant", notIn(setGuests, iifWith(srcIP())...), drop()),
	}
}

// fromGuest decides by the destination as the guest wrote it, before connection
// tracking and anybody's NAT see the packet.
func fromGuest(cluster netip.Prefix, blocked []netip.Prefix) []ruleDef {
	rules := append(append(honest(), alone()...),
		rule4("within the tenant, without connection tracking", in(setGuests, iifWith(dstIP())...), notrack(), accept()),
		rule4("the tenant's own gateway address", in(setGateways, iifWith(dstIP())...), accept()),
		rule("other addresses of the host, broadcast, multicast", toNonUnicast(), drop()),
	)
	rules = append(rules, notInside(cluster, blocked)...)
	return append(rules, rule4("private networks, of a closed tenant", in(setClosed, meta(expr.MetaKeyIIFNAME, reg1)), jump("private")))
}

func notInside(cluster netip.Prefix, blocked []netip.Prefix) []ruleDef {
	rules := []ruleDef{rule4("other tenants, here and on other hosts", toPrefix(cluster), drop())}
	for _, p := range blocked {
		rules = append(rules, rule4("blocked for guests", toPrefix(p), drop()))
	}
	return rules
}

func inputFrom() []ruleDef {
	return append(honest(),
		rule4("only the tenant's own gateway address", notIn(setGateways, iifWith(dstIP())...), drop()),
		rule("answers to what the host asked", ctState(stateEstablished), ctReply(), accept()),
		rule("what belongs to no connection", ctState(stateInvalid), drop()),
		rule("bound on connections", jump("limit")),
		rule4("the host's services for this tenant", protocol(unix.IPPROTO_TCP),
			in(setServices, iifWith(dstIP(), transportBytes(2, 2, reg2b4))...), accept()),
		rule4("questions for names", protocol(unix.IPPROTO_UDP), toPort(53), in(setAskers, meta(expr.MetaKeyIIFNAME, reg1)), jump("ask")),
		rule4("questions for names, over TCP", protocol(unix.IPPROTO_TCP), toPort(53), in(setAskers, meta(expr.MetaKeyIIFNAME, reg1)), jump("ask")),
		rule("nothing else on the host", drop()),
	)
}

func forwardFrom(cluster netip.Prefix, blocked []netip.Prefix) []ruleDef {
	rules := append(append(honest(), alone()...),
		rule4("within the tenant", in(setGuests, iifWith(dstIP())...), in(setGuests, oifWith(dstIP())...), accept()),
		rule("no other bridge", isBridge(expr.MetaKeyOIFNAME), drop()),
		rule("no port of a bridge", isTAP(expr.MetaKeyOIFNAME), drop()),
	)
	rules = append(rules, notInside(cluster, blocked)...)
	return append(rules,
		rule4("private networks, of a closed tenant", in(setClosed, meta(expr.MetaKeyIIFNAME, reg1)), jump("private_forward")),
		rule("what belongs to no connection", ctState(stateInvalid), drop()),
		rule("errors about connections, which may be another's", protocol(unix.IPPROTO_ICMP), ctState(stateRelated), drop()),
		rule4("egress with names", addrIn(setNamed, offIPSrc), jump("named")),
		rule("bound on connections", jump("limit")),
	)
}

func forwardTo() []ruleDef {
	return []ruleDef{
		rule("no IPv6", isIPv4(expr.CmpOpNeq), drop()),
		rule4("answers to what the guest asked", ctState(stateEstablished|stateRelated), ctReply(),
			in(setGuests, oifWith(dstIP())...), accept()),
		rule("nobody else may begin", drop()),
	}
}
