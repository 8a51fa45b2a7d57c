package api

import (
	"net/http"
	"reflect"
)

// Wrap puts a handler around the server's, so that tests see what goes over the wire.
// It must be called before Serve.
func (s *Server) Wrap(f func(http.Handler) http.Handler) { s.http.Handler = f(s.http.Handler) }

// Handler is what answers requests.
func (s *Server) Handler() http.Handler { return s.http.Handler }

// Routes returns the patterns of all routes.
func Routes() (patterns []string) {
	for _, r := range (&Server{}).routes().routes {
		patterns = append(patterns, r.method+" "+r.path)
	}
	return patterns
}

// WireTypes are the types of everything that is sent, but for errors.
func WireTypes() (types []reflect.Type) {
	for _, r := range (&Server{}).routes().routes {
		types = append(types, r.in, r.out)
	}
	return append(types, reflect.TypeFor[line[none]](), reflect.TypeFor[execEnd]())
}
