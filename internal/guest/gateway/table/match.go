package table

import (
	"mvm/internal/guest/gateway/wire"
	"mvm/internal/urlpath"
	"net/http"
	"net/netip"

	"mvm"
)

// Peer is who asks: at which port, from where, and whether it is a program of the host,
// which came through a published port.
type Peer struct {
	Port  int
	Addr  netip.Addr
	Local bool
}

// RouteOf returns the route of a request. What is matched is what is sent on: where
// servers differ in what they take the path for, all readings must lead to one route.
func (t *Table) RouteOf(c Peer, req *http.Request) (mvm.Route, error) {
	readings, err := readingsOf(req)
	if err != nil {
		return mvm.Route{}, err
	}
	route, ok, same := t.routes.MatchEvery(c.Port, readings, c.Addr)
	switch {
	case !same:
		return route, badPath(urlpath.Ambiguous(req.URL.EscapedPath()))
	case !ok:
		return route, wire.Refused(http.StatusNotFound, 0, "no route matches port %d, this path and your address", c.Port)
	}
	return route, nil
}

// Stream returns the route of a connection that is not HTTP.
func (t *Table) Stream(c Peer) (mvm.Route, bool) { return t.routes.Match(c.Port, "", c.Addr) }

// readingsOf returns the readings of the request's path.
func readingsOf(req *http.Request) ([]string, error) {
	if req.Method == http.MethodOptions && req.URL.Path == "*" && req.URL.Opaque == "" {
		return []string{"*"}, nil
	}
	readings, err := urlpath.Readings(req.URL.EscapedPath())
	if err != nil {
		return nil, badPath(err)
	}
	return readings, nil
}

func badPath(err error) *wire.Refusal {
	return wire.Refused(http.StatusBadRequest, 0, "the request is refused for its path: %s", wire.Printable(err.Error(), wire.MaxDetail))
}
