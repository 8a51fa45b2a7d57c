package linuxnet_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm/internal/egress"
	"mvm/internal/network/linuxnet"
)

// These tests show that the attacks' frames are real: each arrives somewhere when
// what stops it is taken away, and each rule that drops stops something.

func watchedWorld(t *testing.T, bridgeNF string) *world {
	w := newWorld(t, bridgeNF, linuxnet.Options{})
	for _, name := range []string{"a3", "a4", "z3", "b3", "b7", "b8"} {
		w.watch(name)
	}
	w.listenTCP()
	return w
}

// TestAttacksArriveUnprotected takes all rules, port flags and settings away: but for
// what the kernel never does, every attack arrives.
func TestAttacksArriveUnprotected(t *testing.T) {
	t.Parallel()
	for _, nf := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables "+nf, func(t *testing.T) {
			w := watchedWorld(t, nf)
			w.unprotect()
			all := allAttacks()
			w.try(all, false)
			stopped := func(a attack) bool { return a.kernel || a.brNF && nf == "1" }
			where := func(i int) string {
				if at := w.arrivals(string(marker(i))); at != "" || all[i].answer == "" {
					return at
				}
				return w.arrivals("arp reply for " + all[i].answer)
			}
			eventually(10*time.Second, func() bool {
				for i, a := range all {
					if !stopped(a) && where(i) == "" {
						return false
					}
				}
				return true
			})
			for i, a := range all {
				if at := where(i); stopped(a) != (at == "") {
					t.Errorf("%s: arrived at %q on a host without protection; the test says that the kernel stops it: %v", a.name, at, stopped(a))
				}
			}
		})
	}
}

// unprotect makes the host as careless as one can be.
func (w *world) unprotect() {
	w.host.run("nft", "flush", "ruleset")
	w.host.sysctl("net/ipv4/icmp_ratelimit", "0")
	w.host.sysctl("net/ipv4/icmp_msgs_per_sec", "100000")
	w.host.sysctl("net/ipv4/icmp_msgs_burst", "100000")
	links := w.host.run("ip", "-o", "link")
	for _, l := range []string{"tn3i3", "tn3i4", "tn4i3", "tn5i3", "tn5i7", "tn5i8"} {
		if !strings.Contains(links, " "+l+":") {
			continue
		}
		w.host.run("bridge", "link", "set", "dev", l, "learning", "on", "flood", "on", "mcast_flood", "on", "isolated", "off")
	}
	for key, value := range map[string]string{
		"arp_ignore": "0", "arp_filter": "0", "rp_filter": "0", "accept_local": "1",
		"route_localnet": "1", "accept_source_route": "1", "proxy_arp": "1",
	} {
		for _, dev := range []string{"all", "br-tenant-3", "br-tenant-4", "wan"} {
			w.host.sysctl("net/ipv4/conf/"+dev+"/"+key, value)
		}
	}
}

type layer struct {
	name   string
	rules  []string // "family chain: comment"
	arrive []string
}

// layers are rules that guard the same way one behind the other: with all of them
// gone, the attacks named arrive.
var layers = []layer{
	{"what guests send", []string{"bridge prerouting: what a guest sends"},
		[]string{"MAC of a neighbour", "ARP reply for the gateway", "ARP gratuitous for the gateway"}},
	{"what guests send and get", []string{"bridge prerouting: what a guest sends", "bridge postrouting: what a guest gets"},
		[]string{"VLAN tag", "unknown type"}},
	{"what is left over", []string{"bridge from_tap: IPv6, VLANs, false senders and all else", "inet input_from: nothing else on the host", "bridge to_tap: what is for another port"},
		[]string{"MAC made up", "IP of a neighbour to the outside", "IP of a neighbour to the host", "LLDP to broadcast"}},
	{"groups", []string{"bridge from_tap: no multicast, broadcast only as ARP below", "bridge from_tap: IPv6, VLANs, false senders and all else",
		"bridge to_tap: what is for another port", "inet input: guests to the host", "inet prerouting: what guests send"},
		[]string{"ARP probe from 0.0.0.0", "DHCP discover", "broadcast"}},
	{"frames to reserved addresses",
		[]string{"bridge input: frames to reserved addresses come here without prerouting",
			"inet prerouting: a port of a bridge is no way into the host", "inet input: a port of a bridge is no way into the host"},
		[]string{"reserved group, host's address"}},
	{"frames for another port",
		[]string{"bridge postrouting: what a guest gets", "inet from_guest: other tenants, here and on other hosts", "inet from_guest: other addresses of the host, broadcast, multicast",
			"inet forward_from: other tenants, here and on other hosts", "inet forward_from: no other bridge", "inet forward: elsewhere to guests"},
		[]string{"to a neighbour's MAC"}},
	{"what a port gets", []string{"bridge to_tap: what is for another port", "inet forward_from: other tenants, here and on other hosts",
		"inet from_guest: other tenants, here and on other hosts", "inet forward_from: no other bridge", "inet forward: elsewhere to guests"},
		[]string{"to a neighbour's MAC"}},
	{"other addresses of the host",
		[]string{"inet from_guest: other addresses of the host, broadcast, multicast", "inet input_from: only the tenant's own gateway address", "inet input_from: nothing else on the host",
			"inet from_guest: other tenants, here and on other hosts"},
		[]string{"UDP to the host's address", "UDP to another tenant's gateway address", "TCP to another tenant's gateway", "ping the host's address"}},
	{"all that guests send to the host",
		[]string{"inet prerouting: what guests send", "inet input: guests to the host"},
		[]string{"UDP to the gateway address", "UDP to the host's address", "ping another tenant's gateway", "fragments to the host"}},
	{"the end of the host's list", []string{"inet input_from: nothing else on the host"},
		[]string{"UDP to the gateway address", "TCP to a port that is not the tenant's", "TCP to another tenant's port on the own gateway", "ping the gateway", "fragments to the host"}},
	{"faked answers to the host", []string{"inet input_from: what belongs to no connection"},
		[]string{"TCP answer to nothing at the tenant's port"}},
	{"other tenants",
		[]string{"inet from_guest: other tenants, here and on other hosts", "inet forward_from: no other bridge", "inet forward_from: other tenants, here and on other hosts", "inet forward: elsewhere to guests"},
		[]string{"through the gateway", "ping", "TCP", "fragments"}},
	{"all that guests send elsewhere",
		[]string{"inet prerouting: what guests send", "inet forward: guests to elsewhere", "inet forward: elsewhere to guests"},
		[]string{"through the gateway", "another host's tenant", "cloud metadata"}},
	{"tenants of other hosts", []string{"inet from_guest: other tenants, here and on other hosts", "inet forward_from: other tenants, here and on other hosts"},
		[]string{"another host's tenant"}},
	{"blocked ranges", []string{"inet from_guest: blocked for guests", "inet forward_from: blocked for guests"},
		[]string{"cloud metadata"}},
	{"packets outside of connections leave without NAT", []string{"inet forward_from: what belongs to no connection"},
		[]string{"TCP answer to nothing to the outside"}},
	{"from outside to guests", []string{"inet forward: elsewhere to guests"},
		[]string{"UDP to a guest", "TCP to a guest", "UDP to a guest as its neighbour"}},
	{"the end of the guests' list", []string{"inet forward_to: nobody else may begin"},
		[]string{"UDP to a guest", "TCP to a guest"}},
	{"from outside to gateway addresses", []string{"inet input: a tenant's gateway address is for the tenant and the host alone"},
		[]string{"UDP to a tenant's gateway address", "TCP to a tenant's port"}},
	{"senders at the IP level, behind the frames' check",
		[]string{"bridge prerouting: what a guest sends", "bridge input: frames to reserved addresses come here without prerouting",
			"inet from_guest: senders are instances of the bridge's tenant", "inet forward_from: senders are instances of the bridge's tenant",
			"inet input_from: senders are instances of the bridge's tenant", "inet input_from: nothing else on the host", "sysctl rp_filter"},
		[]string{"IP of nobody to the outside", "IP of nobody to the host", "IP of the gateway"}},
	{"users' instances", neighbourRules(), names(neighbourAttacks())},
	{"private networks", []string{privateOuter, privateInner}, names(privateAttacks())},
	{"private networks, range by range", privateRanges(), names(privateAttacks())},
	{"names are asked of mvm", []string{"inet private: names are asked of mvm", "inet private_forward: names are asked of mvm",
		"inet private: names are asked of mvm, over TCP too", "inet private_forward: names are asked of mvm, over TCP too"}, names(nameAttacks())},
}

// portIsolation is the flag of the TAPs of users' instances, among a layer's rules.
const portIsolation = "port isolation"

const (
	privateOuter = "inet from_guest: private networks, of a closed tenant"
	privateInner = "inet forward_from: private networks, of a closed tenant"
)

// neighbourRules keep a user's instance and others of its tenant apart.
func neighbourRules() []string {
	rules := []string{portIsolation}
	for _, chain := range []string{"bridge forward", "inet from_guest", "inet forward_from"} {
		rules = append(rules, chain+": a user's instance reaches its gateways alone", chain+": gateways alone reach a user's instance")
	}
	return rules
}

func privateRanges() (rules []string) {
	for _, p := range egress.Private() {
		rules = append(rules, "inet private: closed: "+p.String(), "inet private_forward: closed: "+p.String())
	}
	return rules
}

func names(all []attack) (out []string) {
	for _, a := range all {
		if !a.kernel {
			out = append(out, a.name)
		}
	}
	return out
}

func TestEveryLayerStopsSomething(t *testing.T) {
	t.Parallel()
	all := allAttacks()
	for _, l := range layers {
		for _, nf := range []string{"0", "1"} {
			t.Run(l.name+", bridge-nf-call-iptables "+nf, func(t *testing.T) {
				w := watchedWorld(t, nf)
				w.without(l.rules)
				w.try(all, false)
				var waiting []string
				eventually(5*time.Second, func() bool {
					waiting = slices.DeleteFunc(slices.Clone(l.arrive), func(name string) bool {
						i := slices.IndexFunc(all, func(a attack) bool { return a.name == name })
						return i >= 0 && w.arrivals(string(marker(i))) != ""
					})
					return len(waiting) == 0
				})
				if len(waiting) > 0 {
					t.Errorf("%q are still stopped, or no attacks, without %q", waiting, l.rules)
				}
			})
		}
	}
}

// TestEveryDropIsInALayer keeps the table above complete.
func TestEveryDropIsInALayer(t *testing.T) {
	w := newWorld(t, "0", linuxnet.Options{})
	covered := map[string]bool{
		// The bridge table stops IPv6 before, the host has none on a bridge, and it
		// routes nothing to a port: these wait behind other layers.
		"inet from_guest: no IPv6": true, "inet input_from: no IPv6": true, "inet forward_from: no IPv6": true,
		"inet forward_to: no IPv6": true, "inet forward_from: no port of a bridge": true,
		// TestRates shows these.
		"bridge rate_out: a guest sends so many frames": true, "bridge rate_out: a guest sends so many bytes": true,
		"bridge rate_in: a guest gets so many frames": true, "bridge rate_in: a guest gets so many bytes": true,
		// TestHostUsers, TestRefusals and TestNamesFlood show these.
		"inet ask: who asks too often is not heard":                 true,
		"inet output: only mvm's users begin connections to guests": true,
		"inet refuse: who is refused often gets no answer":          true,
		// TestFakedErrors and TestConnectionLimit show these.
		"inet forward_from: errors about connections, which may be another's": true,
		"inet limit: a guest cannot fill the host's connection table":         true,
	}
	for _, l := range layers {
		for _, r := range l.rules {
			covered[r] = true
		}
	}
	for name, text := range w.rules() {
		if strings.Contains(text.text, " drop ") || strings.HasPrefix(text.text, "drop ") || strings.Contains(text.text, " jump from_") {
			if !covered[name] {
				t.Errorf("no layer of the test takes this rule away: %s", name)
			}
		}
	}
}

type ruleText struct{ chain, handle, text string }

var handleRE = regexp.MustCompile(`^\s*(.*) # handle (\d+)$`)

// rules lists the rules in both tables by "family chain: comment".
func (w *world) rules() map[string]ruleText {
	out := map[string]ruleText{}
	for _, family := range []string{"bridge", "inet"} {
		chain := ""
		for _, line := range strings.Split(w.host.run("nft", "-a", "list", "table", family, "mvm"), "\n") {
			m := handleRE.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			if name, ok := strings.CutPrefix(strings.TrimSuffix(m[1], " {"), "chain "); ok {
				chain = name
			} else if i := strings.LastIndex(m[1], "comment "); i >= 0 {
				out[family+" "+chain+": "+strings.Trim(m[1][i+len("comment "):], `"`)] = ruleText{chain, m[2], m[1]}
			}
		}
	}
	return out
}

// without deletes rules by "family chain: comment", or turns a setting of the
// bridges off by "sysctl name".
func (w *world) without(names []string) {
	have := w.rules()
	for _, name := range names {
		if name == portIsolation {
			w.host.run("bridge", "link", "set", "dev", "tn5i7", "isolated", "off")
			continue
		}
		if key, ok := strings.CutPrefix(name, "sysctl "); ok {
			for _, dev := range []string{"all", "br-tenant-3", "br-tenant-4"} {
				w.host.sysctl("net/ipv4/conf/"+dev+"/"+key, "0")
			}
			continue
		}
		r, ok := have[name]
		if !ok {
			w.t.Fatalf("there is no rule %q", name)
		}
		family, _, _ := strings.Cut(name, " ")
		w.host.run("nft", "delete", "rule", family, "mvm", r.chain, "handle", r.handle)
	}
}
