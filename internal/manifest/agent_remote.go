package manifest

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"mvm/internal/stricttoml"
)

// RemoteConfig is how the agent's API is offered to other machines, over mutual TLS.
type RemoteConfig struct {
	Listen      string   // "ADDRESS:PORT" or ":PORT"; empty: not offered
	CertDir     string   // certificates and keys of the node, and of its CA
	TrustDomain string   // of the identities in certificates
	CertHours   int      // life of a node's certificate
	Rate        int      // requests per second of one client
	Burst       int      // requests at once of one client, beyond the rate
	Connections int      // connections at once, of all clients
	Origins     []string // "https://HOST[:PORT]": whose pages may use the API in browsers beside its own
}

// remoteKeys are the keys of RemoteConfig.
func remoteKeys() []agentKey {
	return []agentKey{
		{name: "api_listen", value: "", check: validListen},
		{name: "cert_dir", value: "/etc/mvm/certs", check: absolute(4096)},
		{name: "trust_domain", value: "mvm", check: validTrustDomain},
		{name: "cert_hours", value: "24", check: number(1, 24*365), number: true},
		{name: "api_rate", value: "20", check: number(1, 10_000), number: true},
		{name: "api_burst", value: "100", check: number(1, 10_000), number: true},
		{name: "api_connections", value: "256", check: number(1, 65_536), number: true},
		{name: "api_origins", value: "", check: validOrigins, list: maxOrigins},
	}
}

func (l *layers) remote() RemoteConfig {
	var origins []string
	if s := l.values["api_origins"]; s != "" {
		origins = strings.Split(s, ",")
	}
	return RemoteConfig{Origins: origins, Listen: l.values["api_listen"], CertDir: l.values["cert_dir"], TrustDomain: l.values["trust_domain"],
		CertHours: l.number("cert_hours"), Rate: l.number("api_rate"), Burst: l.number("api_burst"), Connections: l.number("api_connections")}
}

// number checks a whole number as text.
func number(low, high int) func(string) error {
	return func(s string) error {
		if n, err := strconv.Atoi(s); err != nil || n < low || n > high {
			return fmt.Errorf("%q is not a number in %d..%d", stricttoml.Clip(s), low, high)
		}
		return nil
	}
}

// readInteger reads an integer of the file as text.
func readInteger(i stricttoml.Item, check func(string) error) string {
	n, ok := i.Val.(int64)
	if !ok {
		i.WrongType("an integer")
		return ""
	}
	s := strconv.FormatInt(n, 10)
	i.Check(check(s))
	return s
}

func validListen(s string) error {
	if rest, ok := strings.CutPrefix(s, ":"); ok {
		s = "0.0.0.0:" + rest
	}
	if _, err := netip.ParseAddrPort(s); err != nil {
		return fmt.Errorf("%q is not ADDRESS:PORT or :PORT", stricttoml.Clip(s))
	}
	return nil
}

const maxOrigins = 16

// validOrigins takes origins as browsers send them, with commas.
func validOrigins(s string) error {
	words := strings.Split(s, ",")
	if len(words) > maxOrigins {
		return fmt.Errorf("%d origins are more than %d", len(words), maxOrigins)
	}
	for _, word := range words {
		u, err := url.Parse(word)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || word != strings.ToLower(u.Scheme+"://"+u.Host) {
			return fmt.Errorf("%q is not an origin like https://console.example", stricttoml.Clip(word))
		}
	}
	return nil
}

// validTrustDomain takes what SPIFFE takes: lower-case letters, digits, '.', '-', '_'.
func validTrustDomain(s string) error {
	if s == "" || len(s) > 255 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return fmt.Errorf("%q is not 1 to 255 of a-z, 0-9, '.', '-', '_'", stricttoml.Clip(s))
	}
	return nil
}

// ListenAddr is the address of Listen where it is a single one; empty where it stands
// for all of the host's.
func (c RemoteConfig) ListenAddr() string {
	a, err := netip.ParseAddrPort(c.Listen)
	if err != nil || a.Addr().IsUnspecified() {
		return ""
	}
	return a.Addr().String()
}
