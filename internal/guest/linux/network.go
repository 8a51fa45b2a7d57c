package linux

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guestproto"
)

// loopback is the number of the interface lo in every network namespace.
const loopback = 1

// SetNetwork gives the machine's only network interface the MAC, the address, the
// default route and the name servers, and nothing else. Applied twice it changes
// nothing; what a wake brings again is only looked at.
func (s *System) SetNetwork(n guestproto.Net) error {
	if err := validateNet(n); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if reflect.DeepEqual(n, s.net) && holds(s.nic.Name, n.Address.Addr()) {
		return nil
	}
	r, err := openRoute()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "set network: open netlink: %w", err)
	}
	defer r.Close()
	return s.applyNetwork(r, n)
}

// Announce forgets the gateway's MAC and asks for it, by which the bridge learns
// where this machine is. Before SetNetwork it does nothing.
func (s *System) Announce() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nic.Index == 0 {
		return nil
	}
	r, err := openRoute()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "announce: open netlink: %w", err)
	}
	defer r.Close()
	if err := r.refreshNeighbour(s.nic.Index, s.net.Gateway); err != nil {
		return mvm.Errorf(mvm.KindInternal, "ask for the MAC of %s on %s: %w", s.net.Gateway, s.nic.Name, err)
	}
	return nil
}

// applyNetwork goes through all of it, and remembers it when it is in force.
func (s *System) applyNetwork(r route, n guestproto.Net) error {
	nic, err := findNIC(n.MAC)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"bring up lo", func() error { return r.LinkSetUp(linkOf(loopback)) }},
		{"switch off IPv6 on", func() error { return disableIPv6(nic.Name) }},
		{"set MAC and MTU of", func() error { return setMAC(r, nic, n) }},
		{"set address of", func() error { return setAddress(r, nic.Index, n.Address) }},
		{"set default route over", func() error { return r.setDefault(nic.Index, n.Gateway) }},
		{"write resolv.conf for", func() error { return writeResolvConf(n.DNS) }},
	} {
		if err := step.do(); err != nil {
			return mvm.Errorf(mvm.KindInternal, "%s %s: %w", step.name, nic.Name, err)
		}
	}
	s.net, s.nic = n, *nic
	return s.writeHosts()
}

// holds reports whether the interface is up and has the address: two questions, and
// no look at the rest.
func holds(nic string, addr netip.Addr) bool {
	ifr, err := unix.NewIfreq(nic)
	if err != nil {
		return false
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFADDR, ifr); err != nil {
		return false
	}
	have, err := ifr.Inet4Addr()
	if err != nil || [4]byte(have) != addr.As4() {
		return false
	}
	return unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr) == nil && ifr.Uint16()&unix.IFF_UP != 0
}

func validateNet(n guestproto.Net) error {
	mac, err := net.ParseMAC(n.MAC)
	switch {
	case err != nil || len(mac) != 6:
		return mvm.Errorf(mvm.KindInvalid, "set network: MAC %q is not valid", n.MAC)
	case !n.Address.IsValid() || !n.Address.Addr().Is4() || !n.Gateway.Is4():
		return mvm.Errorf(mvm.KindInvalid, "set network: address %s and gateway %s must be IPv4", n.Address, n.Gateway)
	case !n.Address.Masked().Contains(n.Gateway):
		return mvm.Errorf(mvm.KindInvalid, "set network: gateway %s is not in the subnet of %s", n.Gateway, n.Address)
	case n.MTU != 0 && (n.MTU < 576 || n.MTU > 65535):
		return mvm.Errorf(mvm.KindInvalid, "set network: MTU %d is not in 576..65535", n.MTU)
	}
	return nil
}

// findNIC returns the interface with the MAC, else the only one that is a device.
func findNIC(mac string) (*net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "set network: list interfaces: %w", err)
	}
	var devices []*net.Interface
	for i := range all {
		if strings.EqualFold(all[i].HardwareAddr.String(), mac) {
			return &all[i], nil
		}
		if there("/sys/class/net/" + all[i].Name + "/device") {
			devices = append(devices, &all[i])
		}
	}
	if len(devices) != 1 {
		return nil, mvm.Errorf(mvm.KindNotFound, "set network: no interface has the MAC %s, and %d could be given it", mac, len(devices))
	}
	return devices[0], nil
}

// setMAC brings the link up; it takes it down first only when the MAC is another.
func setMAC(r route, nic *net.Interface, n guestproto.Net) error {
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return err
	}
	link := linkOf(nic.Index)
	if !bytes.Equal(mac, nic.HardwareAddr) {
		if err := errors.Join(r.LinkSetDown(link), r.LinkSetHardwareAddr(link, mac)); err != nil {
			return err
		}
	}
	if n.MTU != 0 && n.MTU != nic.MTU {
		if err := r.LinkSetMTU(link, n.MTU); err != nil {
			return err
		}
	}
	return r.LinkSetUp(link)
}

// setAddress removes every other address, with the routes that hang on them.
func setAddress(r route, index int, want netip.Prefix) error {
	have, err := r.addresses(index)
	if err != nil {
		return err
	}
	for _, p := range have {
		if p != want {
			if err := r.deleteAddress(index, p); err != nil {
				return fmt.Errorf("remove %s: %w", p, err)
			}
		}
	}
	if slices.Contains(have, want) {
		return nil
	}
	return r.addAddress(index, want)
}

func disableIPv6(nic string) error {
	for _, name := range []string{"all", "default", nic} {
		file := "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6"
		if b, err := os.ReadFile(file); err == nil && string(b) == "1\n" {
			continue
		}
		err := os.WriteFile(file, []byte("1"), 0)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// writeResolvConf names the servers, if there are any.
func writeResolvConf(servers []netip.Addr) error {
	if len(servers) == 0 {
		return nil
	}
	var b strings.Builder
	for _, a := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return replaceText("/etc/resolv.conf", b.String())
}
