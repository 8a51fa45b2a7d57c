package linuxnet

import (
	"maps"
	"slices"

	"github.com/google/nftables"

	"mvm"
	"mvm/internal/network"
)

// elements are the keys in each set, by the set's name.
type elements map[string]map[string]bool

var keptSets = [...]string{setPorts, setGuests, setGateways, setHosts, setServices}

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
		}
	}
	return e
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

func setElements(keys []string) []nftables.SetElement {
	out := make([]nftables.SetElement, len(keys))
	for i, k := range keys {
		out[i] = nftables.SetElement{Key: []byte(k)}
	}
	return out
}
