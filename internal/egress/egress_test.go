package egress_test

import (
	"net/netip"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/egress"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.5.0/24":           "10.0.5.0/24",
		"10.0.5.7":              "10.0.5.7",
		"10.0.5.7/32":           "10.0.5.7",
		"10.0.5.7:5432":         "10.0.5.7:5432/tcp",
		"10.0.5.0/24:443/tcp":   "10.0.5.0/24:443/tcp",
		"192.168.1.1:53/udp":    "192.168.1.1:53/udp",
		"192.168.0.0/16:tcp":    "192.168.0.0/16:tcp",
		"0.0.0.0/0":             "0.0.0.0/0",
		"100.64.0.0/10:65535":   "100.64.0.0/10:65535/tcp",
		"10.0.0.0/8:1/udp":      "10.0.0.0/8:1/udp",
		"172.16.0.0/12:udp":     "172.16.0.0/12:udp",
		"93.184.215.14:443/tcp": "93.184.215.14:443/tcp",
		"nas.home":              "nas.home",
		"API.Example.com.":      "api.example.com",
		"*.example.com":         "*.example.com",
		"*.internal":            "*.internal",
		"_x._tcp.xn--bcher.de":  "_x._tcp.xn--bcher.de",
	} {
		d, err := egress.Parse(text)
		if err != nil || d.String() != want || d.Validate() != nil {
			t.Errorf("%s: got %q, %v, want %q", text, d, err, want)
		}
	}
	for text, says := range map[string]string{
		"":                  "no IPv4 address",
		"10.0.5.1/24":       "10.0.5.0/24",
		"10.0.5.0/33":       "no IPv4 address",
		"nas":               "full name",
		"a.b:443":           "every port",
		"a.b/24":            "every port",
		"*":                 "full name",
		"*.":                "full name",
		"a.*.com":           "a star",
		"*a.example.com":    "a star",
		"a..com":            "no name",
		"-a.com":            "no name",
		"b\u00fccher.de":    "xn--",
		"api.\u212aube.com": "xn--", // the Kelvin sign, whose lower case is k
		"a b.com":           "no name",
		"a.1":               "no name ends",
		"fd00::/8":          "no IPv6",
		"fd00::1":           "no IPv6",
		"::ffff:10.0.0.1":   "no IPv6",
		"169.254.169.254":   "link-local",
		"169.254.0.0/16":    "link-local",
		"127.0.0.1:80":      "host_services",
		"224.0.0.251":       "multicast",
		"10.240.3.0/24":     "tenants",
		"10.0.0.0/8:0":      "no port",
		"10.0.0.0/8:65536":  "no port",
		"10.0.0.0/8:":       "no port",
		"10.0.0.0/8:80/icm": "no port",
		"10.0.0.0/8:80/":    "no port",
		"10.0.0.0/8:-1/tcp": "no port",
	} {
		if _, err := egress.Parse(text); err == nil || !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v, want an error with %q", text, err, says)
		}
	}
	if _, err := egress.ParseAll(make([]string, egress.Max+1)); err == nil {
		t.Error("too many destinations are taken")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"*.example.com", "A.b.", "10.0.0.0/8:443/tcp", "::", "10.0.0.0/8:tcp", "1.2.3.4/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := egress.Parse(text)
		if err != nil {
			return
		}
		if err := d.Validate(); err != nil {
			t.Errorf("%q is taken as %v, which is not valid: %v", text, d, err)
		}
		if again, err := egress.Parse(d.String()); err != nil || again != d {
			t.Errorf("%q is shown as %q, which is read as %v, %v", text, d, again, err)
		}
	})
}

// TestAllows is the table of names and addresses by list.
func TestAllows(t *testing.T) {
	list := func(of ...string) []egress.Destination {
		all, err := egress.ParseAll(of)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	names := list("api.example.com", "*.cdn.example", "10.0.5.0/24")
	for name, want := range map[string]bool{"api.example.com": true, "x.api.example.com": false, "example.com": false, "xapi.example.com": false,
		"a.cdn.example": true, "a.b.cdn.example": true, "cdn.example": false, "xcdn.example": false, "*.cdn.example": true, "": false, ".cdn.example": false} {
		if got := egress.AllowsName(names, name); got != want {
			t.Errorf("%q: allowed %t, want %t", name, got, want)
		}
	}
	if !egress.Named(names) || egress.Named(list("10.0.5.0/24")) || !egress.AllowsName(list("10.0.5.0/24"), "x.y") || !egress.AllowsName(nil, "x.y") {
		t.Error("a list without names is for every name, and one with names is not")
	}
	for _, c := range []struct {
		list    []egress.Destination
		address string
		want    bool
	}{
		{nil, "93.184.215.14", true}, {names, "93.184.215.14", true}, {nil, "10.0.5.7", false}, {names, "10.0.5.7", true}, {names, "10.0.6.7", false},
		{list("0.0.0.0/0"), "192.168.1.1", true}, {list("0.0.0.0/0"), "169.254.169.254", false}, {list("0.0.0.0/0"), "127.0.0.1", false},
		{list("0.0.0.0/0"), "10.240.3.3", false}, {list("0.0.0.0/0"), "224.0.0.1", false}, {nil, "100.64.0.9", false}, {nil, "0.0.0.0", false}, {nil, "2606:4700::1", false},
	} {
		if got := egress.AllowsAddress(c.list, netip.MustParseAddr(c.address)); got != c.want {
			t.Errorf("%v, %s: allowed %t, want %t", c.list, c.address, got, c.want)
		}
	}
}
