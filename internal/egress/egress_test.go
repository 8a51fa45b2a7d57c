package egress_test

import (
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
		"nas.home":          "no IPv4 address",
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
	for _, s := range []string{"10.0.0.0/8:443/tcp", "::", "10.0.0.0/8:tcp", "1.2.3.4/0"} {
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
