package linuxnet

import (
	"maps"
	"slices"

	"github.com/google/nftables"

	"mvm"
	"mvm/internal/network"
)

// elements are the keys in each set, by the set's name. Of a set of ranges they are the
// first key and the last, one after the other.
type elements map[string]map[string]bool

var keptSets = [...]string{setPorts, setGuests, setGateways, setHosts, setServices,
	setClosed, setEgress, setNamed, setAskers, setAlone, setHubs, setAlonePort, setHubPort}

func newElements() elements {
	e := elements{}
	for _, s := range keptSets {
		e[s] = map[string]bool{}
	}
	return e
}

// wanted returns the elements that the Config asks for. The Config is valid.
func wanted(cfg network.Config) elements {
	e := newElements()
	for _, t := range cfg.Tenants {
		bridge := string(ifname(mvm.BridgeName(t.NetID)))
		if t.Closed {
			e[setClosed][bridge] = true
		}
		if t.Resolver {
			e[setAskers][bridge] = true
		}
		gateway := bridge + string(t.Gateway().AsSlice())
		e[setGateways][gateway] = true
		e[setHosts][string(t.Gateway().AsSlice())] = true
		for _, p := range t.HostPorts {
			e[setServices][gateway+pad(be16(uint16(p)))] = true
		}
		for _, i := range t.Instances {
			ip, _ := mvm.SubnetAddr(t.Subnet, i.Offset)
			e[setGuests][bridge+string(ip.AsSlice())] = true
			e[setPorts][portKey(t, i)] = true
			e.neighbours(t, i, string(ip.AsSlice()))
			if t.Named(i) {
				e[setNamed][string(ip.AsSlice())] = true
			}
			if i.Egress > 0 {
				for _, b := range egressBoxes(t.Egress[i.Egress-1]) {
					e[setEgress][b.key(ip)] = true
				}
			}
		}
	}
	return e
}

// neighbours says which of its tenant's other instances an instance reaches.
func (e elements) neighbours(t network.Tenant, i network.Instance, ip string) {
	tap := string(ifname(mvm.TAPName(t.NetID, i.Offset)))
	if i.Alone {
		e[setAlone][ip], e[setAlonePort][tap] = true, true
	}
	if i.Gateway {
		e[setHubs][ip], e[setHubPort][tap] = true, true
	}
}

func portKey(t network.Tenant, i network.Instance) string {
	ip, _ := mvm.SubnetAddr(t.Subnet, i.Offset)
	name := ifname(mvm.TAPName(t.NetID, i.Offset))
	return string(name) + pad(mvm.MAC(t.NetID, i.Offset)) + string(ip.AsSlice())
}

// pad fills a part of a concatenation up to a multiple of 4 bytes.
func pad(b []byte) string {
	return string(b) + string(make([]byte, (4-len(b)%4)%4))
}

// missing returns the keys of set that are in e and not in other, sorted.
func (e elements) missing(other elements, set string) []string {
	var out []string
	for k := range e[set] {
		if !other[set][k] {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func (e elements) equal(other elements) bool {
	for _, s := range keptSets {
		if !maps.Equal(e[s], other[s]) {
			return false
		}
	}
	return true
}

// maxBatch bounds the elements of one message: a netlink attribute holds 64 KiB.
const maxBatch = 500

func setElements(keys []string, ranges bool) []nftables.SetElement {
	out := make([]nftables.SetElement, len(keys))
	for i, k := range keys {
		out[i] = nftables.SetElement{Key: []byte(k)}
		if ranges {
			out[i] = nftables.SetElement{Key: []byte(k[:len(k)/2]), KeyEnd: []byte(k[len(k)/2:])}
		}
	}
	return out
}
