// Package egress has the destinations that a pool's guests may reach: addresses in networks
// that are closed to guests, and names, which close everything else.
package egress

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mvm"
)

// Max bounds the destinations of one pool.
const Max = 32

// Destination is one entry of a pool's egress.
type Destination struct {
	// Name is a name, or "*." and the name whose subdomains are meant, in lower case. What
	// follows is empty then.
	Name   string `json:",omitempty"`
	Prefix netip.Prefix
	// Protocol is "tcp" or "udp"; empty: every protocol.
	Protocol string `json:",omitempty"`
	Port     int    `json:",omitempty"` // 0: every port
}

// private are the ranges that guests reach only where a pool's egress allows it.
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("0.0.0.0/8"),
}

// never are the ranges that no egress opens.
var never = map[netip.Prefix]string{
	netip.MustParsePrefix("169.254.0.0/16"): "link-local addresses have the host's credentials in clouds, and are closed to every guest",
	netip.MustParsePrefix("127.0.0.0/8"):    "a loopback address is the guest's own, or the host's: open a port of the host with host_services",
	netip.MustParsePrefix("224.0.0.0/4"):    "guests have no multicast",
	mvm.ClusterCIDR:                         "it belongs to tenants, whose networks are closed to each other",
}

// Private returns the ranges that are closed by default: private (RFC 1918), shared
// (RFC 6598), and others that are no addresses of the internet.
func Private() []netip.Prefix { return slices.Clone(private) }

const form = "write ADDRESS or CIDR, and a port where only that is meant: 10.0.5.0/24, 10.0.5.7:5432, 10.0.5.53:53/udp, 10.0.5.0/24:tcp; or a name: api.example.com, *.example.com"

// Parse reads a name, or CIDR or an address and what follows it: :PORT (TCP), :PORT/PROTO or :PROTO.
func Parse(text string) (Destination, error) {
	bad := func(format string, a ...any) (Destination, error) {
		return Destination{}, mvm.Errorf(mvm.KindInvalid, "egress %.60q: "+format, append([]any{text}, a...)...).WithFix(form)
	}
	if strings.Count(text, ":") > 1 {
		return bad("guests have no IPv6")
	}
	if looksLikeName(text) {
		name, why := readName(text)
		if why != "" {
			return bad("%s", why)
		}
		return Destination{Name: name}, nil
	}
	where, rest, narrowed := strings.Cut(text, ":")
	if !strings.Contains(where, "/") {
		where += "/32"
	}
	d := Destination{}
	var err error
	if d.Prefix, err = netip.ParsePrefix(where); err != nil || !d.Prefix.Addr().Is4() {
		return bad("this is no IPv4 address or CIDR")
	}
	if d.Prefix != d.Prefix.Masked() {
		return bad("the address has bits beyond the prefix, which would be %s", d.Prefix.Masked())
	}
	for p, why := range never {
		if p.Bits() <= d.Prefix.Bits() && p.Contains(d.Prefix.Addr()) {
			return bad("%s", why)
		}
	}
	if !narrowed {
		return d, nil
	}
	port, proto, both := strings.Cut(rest, "/")
	if !both && (rest == "tcp" || rest == "udp") {
		d.Protocol = rest
		return d, nil
	}
	d.Protocol = "tcp"
	if both {
		d.Protocol = proto
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || d.Protocol != "tcp" && d.Protocol != "udp" {
		return bad("%.30q is no port with tcp or udp", rest)
	}
	d.Port = int(n)
	return d, nil
}

// Validate checks a destination that somebody else has made.
func (d Destination) Validate() error {
	if d.Port < 0 || d.Port > 65535 || d.Port > 0 && d.Protocol == "" {
		return mvm.Errorf(mvm.KindInvalid, "egress: %d is no port of tcp or udp", d.Port)
	}
	if got, err := Parse(d.String()); err != nil || got != d {
		return mvm.Errorf(mvm.KindInvalid, "egress: %.60q is no destination", d.String())
	}
	return nil
}

// String returns it as Parse reads it.
func (d Destination) String() string {
	if d.Name != "" {
		return d.Name
	}
	s := strings.TrimSuffix(d.Prefix.String(), "/32")
	switch {
	case d.Port != 0:
		s += ":" + strconv.Itoa(d.Port) + "/" + d.Protocol
	case d.Protocol != "":
		s += ":" + d.Protocol
	}
	return s
}

// ParseAll reads the egress of a pool.
func ParseAll(list []string) ([]Destination, error) {
	if len(list) > Max {
		return nil, mvm.Errorf(mvm.KindInvalid, "%d destinations of egress are more than %d", len(list), Max)
	}
	var out []Destination
	for _, text := range list {
		d, err := Parse(text)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// Check says what is wrong with the egress of a pool.
func Check(s mvm.PoolSpec) error {
	if _, err := ParseAll(s.Egress); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "pool %s: %w", s.ID, err)
	}
	return nil
}
