package linuxnet

import (
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mvm/internal/network"
)

// The sets. What differs between tenants is in them alone; the rules are the same
// for any number of tenants.
const (
	setPorts    = "ports"    // TAP . MAC . address: who may send what, and who gets what
	setGuests   = "guests"   // bridge . address of each instance
	setGateways = "gateways" // bridge . address of the bridge
	setHosts    = "hosts"    // address of each bridge
	setServices = "services" // bridge . address of the bridge . TCP port
	setConns    = "conns"    // connections by sender, kept by the kernel

	setClosed    = "closed" // bridge of each closed tenant
	setEgress    = "egress" // address of an instance . addresses . protocols . ports in private networks
	setNamed     = "named"  // address of each instance whose egress has names
	setAskers    = "askers" // bridge of each tenant whose guests ask mvm for names
	setAlone     = "alone"  // address of each instance that reaches gateways alone
	setHubs      = "hubs"   // address of each instance that is a gateway
	setAlonePort = "alone_taps"
	setHubPort   = "hub_taps"

	setAnswers  = "answers"  // address of an instance . address that a name led to, for a time
	setAsking   = "asking"   // addresses of guests that ask for names, kept by the kernel
	setRefusing = "refusing" // addresses of guests that are refused often, kept by the kernel
	setRefused  = "refused"  // address of an instance . address . protocol . port, kept by the kernel
)

const (
	famBridge = nftables.TableFamilyBridge
	famINet   = nftables.TableFamilyINet
)

type setDef struct {
	family  nftables.TableFamily
	name    string
	key     nftables.SetDatatype
	concat  bool
	dynamic bool
	ranges  bool // keys are ranges
	size    uint32
	timeout time.Duration
}

type chainDef struct {
	family nftables.TableFamily
	name   string
	kind   nftables.ChainType
	hook   *nftables.ChainHook // nil: a chain to jump to
	prio   int32
	rules  []ruleDef
}

type ruleDef struct {
	why   string // becomes the rule's comment
	exprs []expr.Any
}

func rule(why string, pieces ...match) ruleDef {
	return ruleDef{why, slices.Concat(pieces...)}
}

// ruleset is the fixed part of the two tables.
type ruleset struct {
	sets   []setDef
	chains []chainDef
}

func newRuleset(cluster netip.Prefix, blocked []netip.Prefix, maxConns uint32, callers []int, rates Rates) ruleset {
	destination := concat(nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	return ruleset{
		sets: slices.Concat(rateSets(), []setDef{
			{family: famBridge, name: setPorts, key: concat(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr), concat: true},
			{family: famINet, name: setGuests, key: concat(nftables.TypeIFName, nftables.TypeIPAddr), concat: true},
			{family: famINet, name: setGateways, key: concat(nftables.TypeIFName, nftables.TypeIPAddr), concat: true},
			{family: famINet, name: setHosts, key: nftables.TypeIPAddr},
			{family: famINet, name: setServices, key: concat(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeInetService), concat: true},
			{family: famINet, name: setConns, key: nftables.TypeIPAddr, dynamic: true, size: 1 << 17},
			{family: famINet, name: setClosed, key: nftables.TypeIFName},
			{family: famINet, name: setEgress, key: destination, concat: true, ranges: true},
			{family: famINet, name: setNamed, key: nftables.TypeIPAddr},
			{family: famINet, name: setAskers, key: nftables.TypeIFName},
			{family: famINet, name: setAlone, key: nftables.TypeIPAddr},
			{family: famINet, name: setHubs, key: nftables.TypeIPAddr},
			{family: famBridge, name: setAlonePort, key: nftables.TypeIFName},
			{family: famBridge, name: setHubPort, key: nftables.TypeIFName},
			{family: famINet, name: setAnswers, key: concat(nftables.TypeIPAddr, nftables.TypeIPAddr), concat: true, size: maxAnswers, timeout: network.MaxAdmission},
			{family: famINet, name: setAsking, key: nftables.TypeIPAddr, dynamic: true, size: 1 << 16, timeout: time.Minute},
			{family: famINet, name: setRefusing, key: nftables.TypeIPAddr, dynamic: true, size: 1 << 16, timeout: refusedFor},
			{family: famINet, name: setRefused, key: destination, concat: true, dynamic: true, size: 1 << 16, timeout: refusedFor},
		}),
		chains: slices.Concat(rateChains(rates), bridgeChains(), inetChains(cluster, blocked, maxConns), privateChains(), namedChains(), hostChains(callers)),
	}
}

// bridgeChains see every frame at the ports of bridges: a frame of a TAP carries the
// TAP's own MAC and address or is dropped, and a TAP gets only what is for it. They
// come before br_netfilter's hooks, so they do the same whether it is on or off.
func bridgeChains() []chainDef {
	in, out := expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME
	from := func(reason string) []ruleDef { return []ruleDef{rule(reason, isTAP(in), jump("from_tap"))} }
	return []chainDef{
		{family: famBridge, name: "from_tap", rules: fromTAP()},
		{family: famBridge, name: "to_tap", rules: toTAP()},
		{family: famBridge, name: "prerouting", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, prio: -300,
			rules: from("what a guest sends")},
		{family: famBridge, name: "input", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookInput, prio: -300,
			rules: from("frames to reserved addresses come here without prerouting")},
		{family: famBridge, name: "forward", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward, prio: -300, rules: []ruleDef{
			rule("a user's instance reaches its gateways alone", inPorts(setAlonePort, in), notInPorts(setHubPort, out), drop()),
			rule("gateways alone reach a user's instance", inPorts(setAlonePort, out), notInPorts(setHubPort, in), drop()),
		}},
		{family: famBridge, name: "postrouting", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPostrouting, prio: 300,
			rules: []ruleDef{rule("what a guest gets", isTAP(out), jump("to_tap"))}},
	}
}

func fromTAP() []ruleDef {
	name := meta(expr.MetaKeyIIFNAME, reg1)
	etherSrc := linkBytes(offEtherSrc, 6, reg2)
	return []ruleDef{
		rule("no multicast, broadcast only as ARP below", groupAddress(), etherBroadcast(expr.CmpOpNeq), drop()),
		rule("IPv4 from the port's own MAC and address, no options", etherType(unix.ETH_P_IP), etherBroadcast(expr.CmpOpNeq), plainIPv4(),
			in(setPorts, name, etherSrc, netBytes(offIPSrc, 4, reg2b8)), accept()),
		rule("ARP that tells of the port's own MAC and address", etherType(unix.ETH_P_ARP), plainARP(),
			in(setPorts, name, etherSrc, netBytes(offARPSenderIP, 4, reg2b8)),
			in(setPorts, name, netBytes(offARPSenderMAC, 6, reg2), netBytes(offARPSenderIP, 4, reg2b8)), accept()),
		rule("IPv6, VLANs, false senders and all else", drop()),
	}
}

func toTAP() []ruleDef {
	name := meta(expr.MetaKeyOIFNAME, reg1)
	etherDst := linkBytes(offEtherDst, 6, reg2)
	return []ruleDef{
		rule("IPv4 to the port's own MAC and address", etherType(unix.ETH_P_IP),
			in(setPorts, name, etherDst, netBytes(offIPDst, 4, reg2b8)), accept()),
		rule("ARP to everybody", etherType(unix.ETH_P_ARP), etherBroadcast(expr.CmpOpEq), accept()),
		rule("ARP to the port's own MAC and address", etherType(unix.ETH_P_ARP),
			in(setPorts, name, etherDst, netBytes(24, 4, reg2b8)), accept()),
		rule("what is for another port", drop()),
	}
}
