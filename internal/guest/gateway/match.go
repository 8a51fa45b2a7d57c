package gateway

import (
	"mvm/internal/guest/gateway/wire"
	"net/http"
	"net/netip"

	"mvm"
)

// peer is who asks: at which port, from where, and whether it is a program of the host,
// which came through a published port.
type peer struct {
	port  int
	addr  netip.Addr
	local bool
}

// routeOf returns the route of a request. What is matched is what is sent on: where
// servers differ in what they take the path for, all readings must lead to one route.
func (t *table) routeOf(c peer, req *http.Request) (mvm.Route, error) {
	readings, err := readingsOf(req)
	if err != nil {
		return mvm.Route{}, err
	}
	route, ok, same := t.routes.MatchEvery(c.port, readings, c.addr)
	switch {
	case !same:
		return route, badPath(mvm.Ambiguous(req.URL.EscapedPath()))
	case !ok:
		return route, wire.Refused(http.StatusNotFound, 0, "no route matches port %d, this path and your address", c.port)
	}
	return route, nil
}

// stream returns the route of a connection that is not HTTP.
func (t *table) stream(c peer) (mvm.Route, bool) { return t.routes.Match(c.port, "", c.addr) }

// readingsOf returns the readings of the request's path.
func readingsOf(req *http.Request) ([]string, error) {
	if req.Method == http.MethodOptions && req.URL.Path == "*" && req.URL.Opaque == "" {
		return []string{"*"}, nil
	}
	readings, err := mvm.Readings(req.URL.EscapedPath())
	if err != nil {
		return nil, badPath(err)
	}
	return readings, nil
}

func badPath(err error) *wire.Refusal {
	return wire.Refused(http.StatusBadRequest, 0, "the request is refused for its path: %s", wire.Printable(err.Error(), wire.MaxDetail))
}
