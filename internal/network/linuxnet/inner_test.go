package linuxnet_test

import (
	"slices"
	"testing"
)

// alone says of rules that guard one behind the other, which attacks of their layer each
// stops by itself. The other rules of a layer stop them only together.
var alone = []struct {
	layer, rule string
	stops       []string
}{
	{"what guests send and get", "bridge prerouting: what a guest sends",
		[]string{"VLAN tag", "unknown type"}},
	{"what guests send and get", "bridge postrouting: what a guest gets",
		[]string{"VLAN tag", "unknown type"}},
	{"what is left over", "bridge from_tap: IPv6, VLANs, false senders and all else",
		[]string{"MAC made up", "IP of a neighbour to the outside", "IP of a neighbour to the host", "LLDP to broadcast"}},
	{"what is left over", "inet input_from: nothing else on the host",
		[]string{"IP of a neighbour to the host"}},
	{"what is left over", "bridge to_tap: what is for another port",
		[]string{"LLDP to broadcast"}},
	{"groups", "bridge from_tap: IPv6, VLANs, false senders and all else",
		[]string{"DHCP discover", "ARP probe from 0.0.0.0", "broadcast"}},
	{"frames to reserved addresses", "inet prerouting: a port of a bridge is no way into the host",
		[]string{"reserved group, host's address"}},
	{"frames to reserved addresses", "inet input: a port of a bridge is no way into the host",
		[]string{"reserved group, host's address"}},
	{"frames for another port", "bridge postrouting: what a guest gets",
		[]string{"to a neighbour's MAC"}},
	{"what a port gets", "bridge to_tap: what is for another port",
		[]string{"to a neighbour's MAC"}},
	{"other addresses of the host", "inet from_guest: other addresses of the host, broadcast, multicast",
		[]string{"UDP to another tenant's gateway address", "UDP to the host's address", "TCP to another tenant's gateway", "ping the host's address"}},
	{"other addresses of the host", "inet input_from: only the tenant's own gateway address",
		[]string{"UDP to another tenant's gateway address", "UDP to the host's address", "TCP to another tenant's gateway", "ping the host's address"}},
	{"other addresses of the host", "inet input_from: nothing else on the host",
		[]string{"UDP to another tenant's gateway address", "UDP to the host's address", "TCP to another tenant's gateway", "ping the host's address"}},
	{"other addresses of the host", "inet from_guest: other tenants, here and on other hosts",
		[]string{"UDP to another tenant's gateway address", "TCP to another tenant's gateway"}},
	{"all that guests send to the host", "inet prerouting: what guests send",
		[]string{"UDP to the host's address", "ping another tenant's gateway"}},
	{"all that guests send to the host", "inet input: guests to the host",
		[]string{"UDP to the gateway address", "UDP to the host's address", "ping another tenant's gateway", "fragments to the host"}},
	{"other tenants", "inet from_guest: other tenants, here and on other hosts",
		[]string{"through the gateway", "ping", "TCP", "fragments"}},
	{"other tenants", "inet forward_from: no other bridge",
		[]string{"through the gateway", "ping", "TCP", "fragments"}},
	{"other tenants", "inet forward_from: other tenants, here and on other hosts",
		[]string{"through the gateway", "ping", "TCP", "fragments"}},
	{"other tenants", "inet forward: elsewhere to guests",
		[]string{"through the gateway", "ping", "TCP", "fragments"}},
	{"all that guests send elsewhere", "inet prerouting: what guests send",
		[]string{"through the gateway", "another host's tenant", "cloud metadata"}},
	{"all that guests send elsewhere", "inet forward: guests to elsewhere",
		[]string{"through the gateway", "another host's tenant", "cloud metadata"}},
	{"all that guests send elsewhere", "inet forward: elsewhere to guests",
		[]string{"through the gateway"}},
	{"tenants of other hosts", "inet from_guest: other tenants, here and on other hosts",
		[]string{"another host's tenant"}},
	{"tenants of other hosts", "inet forward_from: other tenants, here and on other hosts",
		[]string{"another host's tenant"}},
	{"blocked ranges", "inet from_guest: blocked for guests",
		[]string{"cloud metadata"}},
	{"blocked ranges", "inet forward_from: blocked for guests",
		[]string{"cloud metadata"}},
	{"senders at the IP level, behind the frames' check", "bridge prerouting: what a guest sends",
		[]string{"IP of the gateway", "IP of nobody to the outside", "IP of nobody to the host"}},
	{"senders at the IP level, behind the frames' check", "bridge input: frames to reserved addresses come here without prerouting",
		[]string{"IP of nobody to the outside", "IP of nobody to the host"}},
	{"senders at the IP level, behind the frames' check", "inet from_guest: senders are instances of the bridge's tenant",
		[]string{"IP of nobody to the outside", "IP of nobody to the host"}},
	{"senders at the IP level, behind the frames' check", "inet forward_from: senders are instances of the bridge's tenant",
		[]string{"IP of nobody to the outside"}},
	{"senders at the IP level, behind the frames' check", "inet input_from: senders are instances of the bridge's tenant",
		[]string{"IP of nobody to the host"}},
	{"senders at the IP level, behind the frames' check", "inet input_from: nothing else on the host",
		[]string{"IP of nobody to the host"}},
	{"senders at the IP level, behind the frames' check", "sysctl rp_filter",
		[]string{"IP of nobody to the outside", "IP of nobody to the host"}},
	{"users' instances", "bridge forward: a user's instance reaches its gateways alone",
		[]string{"user to user", "user to worker", "ARP of a user's instance"}},
	{"users' instances", "bridge forward: gateways alone reach a user's instance",
		[]string{"user to user", "worker to user"}},
	{"users' instances", portIsolation,
		[]string{"user to user"}},
	{"users' instances", "inet from_guest: a user's instance reaches its gateways alone",
		[]string{"user to user through the host", "user to worker through the host"}},
	{"users' instances", "inet from_guest: gateways alone reach a user's instance",
		[]string{"user to user through the host", "worker to user through the host"}},
	{"users' instances", "inet forward_from: a user's instance reaches its gateways alone",
		[]string{"user to user through the host", "user to worker through the host"}},
	{"users' instances", "inet forward_from: gateways alone reach a user's instance",
		[]string{"user to user through the host", "worker to user through the host"}},
	{"private networks", privateOuter, names(privateAttacks())},
	{"private networks", privateInner, names(privateAttacks())},
}

// TestInnerRulesHold takes all rules of a layer away but one, the outer ones too: it must
// stop by itself what it is there for.
func TestInnerRulesHold(t *testing.T) {
	t.Parallel()
	all := allAttacks()
	for _, c := range alone {
		t.Run(c.layer+", "+c.rule, func(t *testing.T) {
			n := slices.IndexFunc(layers, func(l layer) bool { return l.name == c.layer })
			if n < 0 || !slices.Contains(layers[n].rules, c.rule) {
				t.Fatalf("there is no such layer, or no such rule in it")
			}
			w := watchedWorld(t, "0")
			w.without(slices.DeleteFunc(slices.Clone(layers[n].rules), func(r string) bool { return r == c.rule }))
			got := w.try(all, true)
			for _, name := range c.stops {
				i := slices.IndexFunc(all, func(a attack) bool { return a.name == name })
				if i < 0 || got[i] != "" {
					t.Errorf("%s: arrived at %q, past %q", name, got[max(i, 0)], c.rule)
				}
			}
		})
	}
}
