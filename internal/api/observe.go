package api

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"mvm"
)

// outcome is how a request ended, for who counts requests.
type outcome struct {
	kind atomic.Value // mvm.Kind of its error
}

type outcomeKey struct{}

// failed notes the error that a request ends with.
func failed(ctx context.Context, err error) {
	if o, ok := ctx.Value(outcomeKey{}).(*outcome); ok {
		o.kind.Store(toBody(err).Kind)
	}
}

// observe tells who counts requests how each of them ended.
func (s *Server) observe(mux *http.ServeMux, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, o := time.Now(), &outcome{}
		r = identify(w, r)
		_, route := mux.Handler(r)
		defer func() {
			result := "ok"
			if kind, _ := o.kind.Load().(mvm.Kind); kind != "" {
				result = string(kind)
			}
			took := time.Since(began)
			s.count(route, result, took)
			s.log.Debug("request done", "route", route, "result", result, "took", took, "request", mvm.RequestFrom(r.Context()))
		}()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), outcomeKey{}, o)))
	})
}
