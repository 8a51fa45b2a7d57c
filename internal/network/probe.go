package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"mvm"
)

// Probe is one thing that a guest tries to see whether the network isolates: what a
// hostile guest could do with busybox's tools. It is pure data; the agent runs it.
//
// Run Prepare, each command in turn, then Argv, and then Restore in any case; all
// with a timeout of some seconds, as argv and without a shell. Judge tells from
// Argv's exit code whether the network does what it should.
type Probe struct {
	Tenant   string     `json:"tenant"`
	Instance string     `json:"instance"` // the guest to run in; it must be running
	Kind     string     `json:"kind"`     // "icmp", "tcp", "arp", "ipv6", "spoof-ip" or "spoof-mac"
	Target   string     `json:"target"`   // an address, or address:port
	Argv     []string   `json:"argv"`     // exits 0 when it reached the target
	Prepare  [][]string `json:"prepare,omitempty"`
	Restore  [][]string `json:"restore,omitempty"`
	// Peer, where set, is the instance at the target: a failure tells nothing while
	// it is not running, so the probe should be left out then.
	Peer string `json:"peer,omitempty"`
	// Reach says what is right: to reach the target, or not to.
	Reach bool `json:"reach"`
	// Disturbs: the guest's own traffic stops for as long as the probe takes.
	// Run such probes one after the other, when no other is under way.
	Disturbs bool   `json:"disturbs,omitempty"`
	What     string `json:"what"` // for people
}

// ProbeHost tells Probes of the host.
type ProbeHost struct {
	// Addrs are the host's addresses outside of the tenants' networks.
	Addrs []netip.Addr
	// Port is a TCP port on which something answers on every address of the host
	// while the probes run, and which is no tenant's host port; 0: none, so that
	// probes by TCP say little.
	Port int
}

// One guest tries at most this many other tenants, and guests of each.
const (
	maxOthers = 4
	maxPeers  = 4
)

// GuestInterface is the name of a guest's only network interface.
const GuestInterface = "eth0"

// Probes returns what the guests of every tenant should try. Their number grows with
// instances times tenants, each instance trying at most four other
// tenants and four guests of each.
func Probes(cfg Config, host ProbeHost) []Probe {
	var out []Probe
	for n, t := range cfg.Tenants {
		for _, from := range t.Instances {
			p := prober{t, from}
			out = append(out, p.within()...)
			out = append(out, p.toHost(t.Gateway(), host)...)
			for k := 1; k <= min(maxOthers, len(cfg.Tenants)-1); k++ {
				out = append(out, p.toTenant(cfg.Tenants[(n+k)%len(cfg.Tenants)], host)...)
			}
		}
	}
	return out
}

// Judge returns a Finding when a probe that exited with the code shows a fault, or,
// with 126, 127 or less than 0, could not run.
func (p Probe) Judge(exit int) (Finding, bool) {
	f := Finding{Severity: "error", Where: fmt.Sprintf("%s/%s to %s", p.Tenant, p.Instance, p.Target)}
	switch {
	case exit == 126 || exit == 127 || exit < 0:
		f.Severity, f.What = "warning", "live probe could not run: "+p.What
		f.Fix = fmt.Sprintf("have busybox's %s in the image, or probe from another instance", p.Argv[0])
		return f, true
	case p.Reach == (exit == 0):
		return Finding{}, false
	}
	if p.Reach {
		f.What = "live probe failed: " + p.What
		f.Fix = "look at the guest's network, and at warnings of mvm net verify about other programs' rules"
	} else {
		f.What = "live probe got through: " + p.What
		f.Fix = "stop the tenant's instances, then look at the other findings of mvm net verify"
	}
	return f, true
}

type prober struct {
	tenant Tenant
	from   Instance
}

func (p prober) probe(kind, target string, argv []string, what string) Probe {
	return Probe{Tenant: p.tenant.ID, Instance: p.from.ID, Kind: kind, Target: target, Argv: argv, What: what}
}

func (p prober) ping(ip netip.Addr, what string) Probe {
	return p.probe("icmp", ip.String(), []string{"ping", "-c", "1", "-W", "2", ip.String()}, what)
}

func (p prober) tcp(ip netip.Addr, port int, what string) Probe {
	return p.probe("tcp", netip.AddrPortFrom(ip, uint16(port)).String(),
		[]string{"nc", "-w", "2", ip.String(), strconv.Itoa(port), "-e", "true"}, what)
}

func (p prober) arp(ip netip.Addr, what string) Probe {
	return p.probe("arp", ip.String(), []string{"arping", "-c", "2", "-w", "2", "-f", "-I", GuestInterface, ip.String()}, what)
}

// within are the probes among a tenant's own guests: one that must succeed, so that
// the failures of the others mean something, and false identities.
func (p prober) within() []Probe {
	barred := p.barred()
	at := slices.IndexFunc(p.tenant.Instances, func(i Instance) bool { return i.ID != p.from.ID && p.from.Reaches(i) })
	if at < 0 {
		return barred
	}
	peer := p.tenant.Instances[at]
	ip, _ := mvm.SubnetAddr(p.tenant.Subnet, peer.Offset)
	reach := p.ping(ip, "a neighbour of the same tenant answers")
	reach.Reach = true
	out := []Probe{reach, p.otherMAC(ip)}
	if free, ok := p.freeAddr(); ok {
		out = append(out, p.otherIP(free, ip))
	}
	ll := linkLocal(mvm.MAC(p.tenant.NetID, peer.Offset))
	out = append(out, p.probe("ipv6", ll.String(), []string{"ping", "-6", "-c", "1", "-W", "2", "-I", GuestInterface, ll.String()}, "a neighbour answers over IPv6"))
	for i := range out {
		out[i].Peer = peer.ID
	}
	return append(out, barred...)
}

// barred is the probe of an instance that is kept apart from this one.
func (p prober) barred() []Probe {
	at := slices.IndexFunc(p.tenant.Instances, func(i Instance) bool { return i.ID != p.from.ID && !p.from.Reaches(i) })
	if at < 0 {
		return nil
	}
	ip, _ := mvm.SubnetAddr(p.tenant.Subnet, p.tenant.Instances[at].Offset)
	out := []Probe{p.ping(ip, "an instance that is kept apart from this one answers"), p.arp(ip, "an instance that is kept apart from this one answers ARP")}
	for n := range out {
		out[n].Peer = p.tenant.Instances[at].ID
	}
	return out
}

func (p prober) otherIP(free, peer netip.Addr) Probe {
	with := netip.PrefixFrom(free, p.tenant.Subnet.Bits()).String()
	b := p.probe("spoof-ip", peer.String(), []string{"ping", "-c", "1", "-W", "2", "-I", free.String(), peer.String()}, "a neighbour answers to an address that the guest took for itself")
	b.Prepare = [][]string{{"ip", "addr", "add", with, "dev", GuestInterface}}
	b.Restore = [][]string{{"ip", "addr", "del", with, "dev", GuestInterface}}
	return b
}

func (p prober) otherMAC(peer netip.Addr) Probe {
	own := mvm.MAC(p.tenant.NetID, p.from.Offset)
	other := slices.Clone(own)
	other[1] ^= 0x02 // no instance has it
	set := func(m net.HardwareAddr) [][]string {
		return [][]string{{"ip", "link", "set", "dev", GuestInterface, "address", m.String()}}
	}
	b := p.probe("spoof-mac", peer.String(), []string{"ping", "-c", "1", "-W", "2", peer.String()}, "a neighbour answers to a MAC that the guest took for itself")
	b.Prepare, b.Restore, b.Disturbs = set(other), set(own), true
	return b
}

// freeAddr is an address of the subnet that is no instance's, another one for each
// of the tenant's first instances.
func (p prober) freeAddr() (free netip.Addr, found bool) {
	used := map[int]bool{}
	skip := 0
	for k, i := range p.tenant.Instances {
		used[i.Offset] = true
		if i.ID == p.from.ID {
			skip = k
		}
	}
	for offset := mvm.FirstInstanceOffset; ; offset++ {
		ip, ok := mvm.SubnetAddr(p.tenant.Subnet, offset)
		if !ok {
			return free, found
		}
		if used[offset] {
			continue
		}
		free, found = ip, true
		if skip--; skip < 0 {
			return free, found
		}
	}
}

// toHost are the probes of the host.
func (p prober) toHost(gateway netip.Addr, host ProbeHost) []Probe {
	gw := p.arp(gateway, "the tenant's gateway answers ARP")
	gw.Reach = true
	out := []Probe{gw}
	for _, ip := range append([]netip.Addr{gateway}, host.Addrs...) {
		if host.Port != 0 {
			out = append(out, p.tcp(ip, host.Port, "a port of the host that is not the tenant's answers"))
		}
		if ip != gateway {
			out = append(out, p.ping(ip, "an address of the host answers"), p.arp(ip, "an address of the host answers ARP"))
		}
	}
	return append(out, p.tcp(netip.AddrFrom4([4]byte{169, 254, 169, 254}), 80, "the cloud's metadata service answers"))
}

// toTenant are the probes of another tenant's guests and ports.
func (p prober) toTenant(other Tenant, host ProbeHost) []Probe {
	gw := other.Gateway()
	out := []Probe{
		p.ping(gw, "the gateway of tenant "+other.ID+" answers"),
		p.arp(gw, "the gateway of tenant "+other.ID+" answers ARP"),
	}
	ports := slices.Clone(other.HostPorts)
	if host.Port != 0 {
		ports = append(ports, host.Port)
	}
	for _, port := range ports {
		out = append(out, p.tcp(gw, port, "a host port of tenant "+other.ID+" answers"))
		if !slices.Contains(p.tenant.HostPorts, port) && port != host.Port {
			out = append(out, p.tcp(p.tenant.Gateway(), port, "a host port of tenant "+other.ID+" answers on the own gateway"))
		}
	}
	for _, i := range other.Instances[:min(maxPeers, len(other.Instances))] {
		ip, _ := mvm.SubnetAddr(other.Subnet, i.Offset)
		ping, arp := p.ping(ip, "a guest of tenant "+other.ID+" answers"), p.arp(ip, "a guest of tenant "+other.ID+" answers ARP")
		ping.Peer, arp.Peer = i.ID, i.ID
		out = append(out, ping, arp)
	}
	return out
}

// linkLocal is the IPv6 address that a guest makes of its MAC.
func linkLocal(m net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}
