package host

import (
	"bufio"
	"log/slog"
	"net/netip"
	"os"
	"strings"
)

// maxResolvers is how many resolvers a guest's libc uses.
const maxResolvers = 3

// resolverFiles say the host's resolvers; the second where the first names a stub.
var resolverFiles = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// resolvers returns what the guests' resolvers are at any time: those of the config, or
// the host's as they are now. A host without any is told of once.
func resolvers(config []netip.Addr, log *slog.Logger) func() []netip.Addr {
	if len(config) > 0 {
		return func() []netip.Addr { return config }
	}
	if len(hostResolvers()) == 0 {
		log.Warn("the host has no resolver that guests can reach; name some with dns in the config")
	}
	return hostResolvers
}

// upstream returns the name servers that mvm's resolver asks: those of the config, or those
// that programs of the host ask, as they are now. A stub on loopback is one of them.
func upstream(config []netip.Addr) func() []netip.AddrPort {
	return func() (out []netip.AddrPort) {
		list := config
		if len(list) == 0 {
			list = readResolvers(resolverFiles[0], func(netip.Addr) bool { return true })
		}
		for _, a := range list {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
		return out
	}
}

// hostResolvers returns the host's IPv4 resolvers that guests can reach too: a stub on
// loopback is passed over for the resolvers behind it.
func hostResolvers() []netip.Addr {
	for _, path := range resolverFiles {
		reachable := func(a netip.Addr) bool { return a.Is4() && !a.IsLoopback() }
		if found := readResolvers(path, reachable); len(found) > 0 {
			return found
		}
	}
	return nil
}

func readResolvers(path string, takes func(netip.Addr) bool) []netip.Addr {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var out []netip.Addr
	for sc := bufio.NewScanner(f); sc.Scan() && len(out) < maxResolvers; {
		words := strings.Fields(sc.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil && takes(a) {
			out = append(out, a)
		}
	}
	return out
}
