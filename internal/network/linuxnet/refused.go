package linuxnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/egress"
	"mvm/internal/network"
)

// maxRefusals bounds what is told of one guest.
const maxRefusals = 5

// refusals tells what guests tried of late and were refused. The kernel notes it, and it is
// read when somebody asks. A guest writes what it likes into it, so little of it is told.
func (n *Network) refusals() ([]network.Finding, error) {
	if len(n.cfg.Tenants) == 0 {
		return nil, nil
	}
	flows, err := n.fw.refused()
	if err != nil {
		return nil, err
	}
	by := map[string][]string{}
	for _, k := range flows {
		by[k[:4]] = append(by[k[:4]], destination(k))
	}
	var out []network.Finding
	for _, t := range n.cfg.Tenants {
		for _, i := range t.Instances {
			ip, _ := mvm.SubnetAddr(t.Subnet, i.Offset)
			list := by[string(ip.AsSlice())]
			slices.Sort(list)
			for _, to := range list[:min(len(list), maxRefusals)] {
				out = append(out, network.Finding{Severity: minor, Where: t.ID + "/" + i.ID, What: "the guest tried " + to + " and was refused",
					Fix: "where that is meant, allow it: mvm pool update " + t.ID + "/POOL --egress " + to})
			}
			if more := len(list) - maxRefusals; more > 0 {
				out = append(out, network.Finding{Severity: minor, Where: t.ID + "/" + i.ID, What: fmt.Sprintf("the guest was refused %d more destinations", more),
					Fix: "see what the guest does, in mvm logs"})
			}
		}
	}
	return out, nil
}

// destination is where an element of the set leads, as egress writes it.
func destination(k string) string {
	ip, _ := netip.AddrFromSlice([]byte(k[4:8]))
	d := egress.Destination{Prefix: netip.PrefixFrom(ip, 32)}
	if p := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[k[8]]; p != "" {
		d.Protocol, d.Port = p, int(binary.BigEndian.Uint16([]byte(k[12:14])))
	}
	return d.String()
}

// refused reads the keys of the set of refused flows. Tables that are not there have none.
func (f *firewall) refused() ([]string, error) {
	c, err := f.conn()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "open nftables: %w", err)
	}
	set := f.set(f.rules.sets[f.setID(setRefused)-1])
	elems, err := c.GetSetElements(set)
	if err != nil {
		if o, rerr := f.read(); rerr == nil && o.shape["inet set "+setRefused] == "" {
			return nil, nil // verifyRules tells that it is not there
		}
		return nil, mvm.Errorf(mvm.KindInternal, "read nftables set %s: %w", setRefused, err)
	}
	var out []string
	for _, e := range elems {
		if len(e.Key) == 16 {
			out = append(out, string(e.Key))
		}
	}
	return out, nil
}
