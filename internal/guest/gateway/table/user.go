package table

import (
	"cmp"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/guest/gateway/wire"
	"mvm/internal/guest/requestkey"
)

// Authenticate does what the route asks for and returns the user that a token names; ""
// where the route takes none.
func (t *Table) Authenticate(c Peer, req *http.Request, route mvm.Route, now time.Time) (user string, err error) {
	switch route.AuthMode() {
	case mvm.AuthJWT:
		v := t.auth[route.Name]
		if v == nil || len(v.keys) == 0 {
			return "", wire.Refused(http.StatusServiceUnavailable, wire.DefaultRetry, "tokens can't be verified now")
		}
		return v.verify(req, now)
	case mvm.AuthProxy:
		if !Trusted(route.Auth.Trusted, c) {
			return "", wire.Refused(http.StatusForbidden, 0, "requests are taken from a trusted proxy alone")
		}
	}
	return "", nil
}

// Trusted reports whether the connection comes from one of the ranges. A loopback range
// means programs of the host: they come from the host's address in the subnet.
func Trusted(ranges []netip.Prefix, c Peer) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool {
		return p.Contains(c.Addr) || c.Local && p.Addr().IsLoopback()
	})
}

// KeyOf returns the request's key, of a route that chooses by key. With a token it is the
// token's user; where the request names one too, it must be the same. The error is a *wire.Refusal.
func KeyOf(route mvm.Route, user string, req *http.Request, body []byte) (string, error) {
	s := route.To.Selector
	key, err := requestkey.Of(s.From, route.Match.PathPrefix, req, body)
	if none := requestkey.Missing(""); user != "" && (errors.As(err, &none) || errors.Is(err, requestkey.ErrNoValue)) {
		key, err = user, nil
	}
	if err == nil {
		err = mvm.ValidateKey(key)
	}
	if err != nil {
		return "", wire.Refused(http.StatusBadRequest, 0, "no key for an instance from %s: %s", wire.Printable(s.From, 200), wire.Printable(err.Error(), wire.MaxDetail))
	}
	if user != "" && key != user {
		return "", wire.Refused(http.StatusForbidden, 0, "the token is another user's")
	}
	return strings.Clone(key), nil // and not with the head that it is of
}

// TellUser makes the request tell the instance what led there: a client's Connection
// header may have it removed, and what names a user under a similar name, or a token, is
// not for the instance.
func TellUser(req *http.Request, route mvm.Route, key, user string) {
	dropConnectionHeaders(req.Header)
	if route.AuthMode() == mvm.AuthJWT {
		dropToken(req.Header, route.Auth.WithDefaults().Token)
	}
	if user = cmp.Or(key, user); user == "" {
		return
	}
	for _, name := range keyHeaders(route.To.Selector.From) {
		for have := range req.Header {
			if wire.Alike(have, name) {
				delete(req.Header, have)
			}
		}
		req.Header.Set(name, user)
	}
}

// dropConnectionHeaders removes what the client's Connection header names, so that it
// can't name what the gateway sets, and an offer of another version of HTTP.
func dropConnectionHeaders(h http.Header) {
	if names := wire.NamedByConnection(h); len(names) > 0 {
		for _, name := range names {
			h.Del(name)
		}
		kept := ""
		for _, token := range []string{"upgrade", "close", "keep-alive"} {
			if wire.HasToken(h["Connection"], token) {
				kept += ", " + token
			}
		}
		h.Set("Connection", strings.TrimPrefix(kept, ", "))
	}
	dropH2C(h)
}

// keyHeaders are the headers that tell an instance the key.
func keyHeaders(from string) []string {
	kind, name, _ := strings.Cut(from, ":")
	name = http.CanonicalHeaderKey(name)
	if kind == "header" && name != wire.UserHeader && name != "Host" {
		return []string{wire.UserHeader, name}
	}
	return []string{wire.UserHeader}
}

// dropToken removes the token that the gateway took: it is no business of the instance,
// where what it runs might use it elsewhere.
func dropToken(h http.Header, from string) {
	kind, name, _ := strings.Cut(from, ":")
	if kind == "header" {
		h.Del(name)
		return
	}
	var kept []string
	for _, line := range h.Values("Cookie") {
		for part := range strings.SplitSeq(line, ";") {
			if n, _, _ := strings.Cut(part, "="); strings.TrimSpace(n) != name && strings.TrimSpace(part) != "" {
				kept = append(kept, strings.TrimSpace(part))
			}
		}
	}
	h.Del("Cookie")
	if len(kept) > 0 {
		h.Set("Cookie", strings.Join(kept, "; "))
	}
}

// dropH2C takes an offer of another version of HTTP off the request: an instance that
// took it would get the client's further requests past the routes.
func dropH2C(h http.Header) {
	for _, v := range h["Upgrade"] {
		for part := range strings.SplitSeq(v, ",") {
			name := strings.ToLower(strings.TrimSpace(part))
			if name == "h2c" || strings.HasPrefix(name, "http/") || strings.HasPrefix(name, "tls/") {
				h.Del("Upgrade")
				h.Del("Http2-Settings")
				return
			}
		}
	}
}
