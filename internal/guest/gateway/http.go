package gateway

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"mvm"
)

type clientKey struct{}

func (r *Router) newServer() *http.Server {
	return &http.Server{
		Handler:                      http.HandlerFunc(r.serve),
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            r.lim.Head,
		IdleTimeout:                  r.lim.ClientIdle,
		MaxHeaderBytes:               r.lim.HeadBytes,
		ErrorLog:                     slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
		BaseContext:                  func(net.Listener) context.Context { return r.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, clientKey{}, c)
		},
		ConnState: r.countServed,
	}
}

// countServed counts the server's goroutines, for Close.
func (r *Router) countServed(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		r.served.Add(1)
	case http.StateClosed, http.StateHijacked:
		r.served.Done()
	}
}

// serve routes one request.
func (r *Router) serve(w http.ResponseWriter, req *http.Request) {
	c, ok := req.Context().Value(clientKey{}).(*clientConn)
	if !ok || !r.group.enter() {
		refuse(w, req, refused(503, defaultRetry, "the gateway is closing"))
		return
	}
	defer r.group.leave()
	defer c.resetUnended(req)
	req, answered := c.follow(req)
	defer answered()
	req = identified(req)
	if req.Method == http.MethodConnect {
		refuse(w, req, refused(http.StatusMethodNotAllowed, 0, "CONNECT is not served here"))
		return
	}
	t := r.table.Load()
	route, err := t.routeOf(c, req)
	if err != nil {
		refuse(w, req, err)
		return
	}
	x := &exchange{r: r, client: c, port: route.To.TargetPort, route: route}
	defer x.end()
	user, err := t.authenticate(c, req, route, r.opt.Now())
	if err != nil {
		r.log.Debug("request refused", "route", route.Name, "request", mvm.RequestFrom(req.Context()), "error", err)
		refuse(w, req, err)
		return
	}
	x.user = user
	key, err := x.key(w, req)
	if err != nil {
		r.log.Debug("request refused", "route", route.Name, "request", mvm.RequestFrom(req.Context()), "error", err)
		refuse(w, req, err)
		return
	}
	x.target = targetOf(route.To, key)
	// The instance may answer while the body still comes.
	_ = http.NewResponseController(w).EnableFullDuplex()
	x.tellUser(req)
	x.pass(w, x.asStranger(req))
}

// resetUnended sees to it that an answer which is broken off can't be taken for a whole
// one: where its end is the connection's end, the client gets a reset.
func (c *clientConn) resetUnended(req *http.Request) {
	if broken := recover(); broken != nil {
		if !req.ProtoAtLeast(1, 1) {
			c.cutOnClose()
		}
		panic(broken)
	}
}
