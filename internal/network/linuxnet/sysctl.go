package linuxnet

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"mvm"
)

type sysctl struct{ key, value string }

// bridgeSysctls make the host keep still on a tenant's bridge: no IPv6, answers to
// ARP for the bridge's own address only, no redirects, no source routes.
func bridgeSysctls(name string) []sysctl {
	return append([]sysctl{
		{"net/ipv4/conf/" + name + "/rp_filter", "1"},
		{"net/ipv4/conf/" + name + "/arp_ignore", "2"},
		{"net/ipv4/conf/" + name + "/arp_announce", "2"},
		{"net/ipv4/conf/" + name + "/arp_filter", "1"},
		{"net/ipv4/conf/" + name + "/arp_accept", "0"},
		{"net/ipv4/conf/" + name + "/proxy_arp", "0"},
		{"net/ipv4/conf/" + name + "/proxy_arp_pvlan", "0"},
		{"net/ipv4/conf/" + name + "/route_localnet", "0"},
		{"net/ipv4/conf/" + name + "/accept_local", "0"},
		{"net/ipv4/conf/" + name + "/bc_forwarding", "0"},
		{"net/ipv4/conf/" + name + "/accept_redirects", "0"},
		{"net/ipv4/conf/" + name + "/send_redirects", "0"},
		{"net/ipv4/conf/" + name + "/accept_source_route", "0"},
		{"net/ipv4/conf/" + name + "/forwarding", "1"},
	}, noIPv6(name)...)
}

// noIPv6 keeps the host from having IPv6 on the interface.
func noIPv6(name string) []sysctl {
	return []sysctl{
		{"net/ipv6/conf/" + name + "/disable_ipv6", "1"},
		{"net/ipv6/conf/" + name + "/accept_ra", "0"},
		{"net/ipv6/conf/" + name + "/addr_gen_mode", "1"},
	}
}

// name is the key as the sysctl command writes it.
func (s sysctl) name() string { return strings.ReplaceAll(s.key, "/", ".") }

// differs reports whether the value is another one. A key that the kernel does not
// have (no IPv6) does not differ.
func (s sysctl) differs() (string, bool, error) {
	b, err := os.ReadFile("/proc/sys/" + s.key)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, mvm.Errorf(mvm.KindInternal, "read sysctl: %w", err)
	}
	got := strings.TrimSpace(string(b))
	return got, got != s.value, nil
}

// set writes the value unless it is there already, and reports whether it wrote.
func (s sysctl) set() (bool, error) {
	_, differs, err := s.differs()
	if err != nil || !differs {
		return false, err
	}
	return true, s.write()
}

// write writes the value without looking.
func (s sysctl) write() error {
	f, err := os.OpenFile("/proc/sys/"+s.key, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		_, err = f.WriteString(s.value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "set sysctl %s to %s: %w", s.name(), s.value, err)
	}
	return nil
}
