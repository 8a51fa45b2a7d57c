package wire

import (
	"net/http"
	"net/netip"
	"strings"
)

// appendForwarded appends who sent the request: what the gateway knows itself. Where it
// comes from a proxy that the route trusts, that is added to the proxy's own word.
func appendForwarded(b []byte, req *http.Request, source netip.Addr, trust bool) ([]byte, error) {
	host, proto, before := req.Host, "http", []string(nil)
	if trust {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"} {
			for _, v := range req.Header[name] {
				if !plain(v) {
					return b, Refused(http.StatusBadRequest, 0, "the header %s has characters that may not be there", name)
				}
			}
		}
		before = req.Header["X-Forwarded-For"]
		if v := req.Header["X-Forwarded-Host"]; len(v) == 1 && v[0] != "" {
			host = v[0]
		}
		if v := req.Header["X-Forwarded-Proto"]; len(v) == 1 && v[0] != "" {
			proto = v[0]
		}
		if before := req.Header["Forwarded"]; len(before) > 0 {
			b = AppendField(b, "Forwarded", strings.Join(before, ", ")+", for="+forwardedNode(source)+";proto=http")
		}
	}
	b = append(b, "X-Forwarded-For: "...)
	for _, v := range before {
		b = append(append(b, v...), ", "...)
	}
	b = append(source.AppendTo(b), "\r\n"...)
	b = AppendField(b, "X-Forwarded-Host", host)
	return AppendField(b, "X-Forwarded-Proto", proto), nil
}

// forwardedNode is how Forwarded names an address (RFC 7239).
func forwardedNode(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	return `"[` + a.String() + `]"`
}
