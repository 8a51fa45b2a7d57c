package api

import (
	"context"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"mvm"
)

// access says which callers a route is for. Every route has one, and within
// forTenants the scope (scope.go) keeps a tenant's client to its tenant.
type access string

const (
	forAll       access = "all"       // tells nothing of tenants or host
	forTenants   access = "tenants"   // operators, and clients of a tenant for what is that tenant's
	forOperators access = "operators" // the host, or what a tenant must not decide about itself
)

// shape is the form of a route's answer.
type shape string

const (
	asValue  shape = "value"  // one JSON value
	asResult shape = "result" // lines of progress, then a result
	asItems  shape = "items"  // lines with an item each
	asExec   shape = "exec"   // an upgraded connection
)

// endpoint is a handler with the types of its question and answer, from which the
// schema is made.
type endpoint struct {
	serve   http.HandlerFunc
	shape   shape
	in, out reflect.Type
}

// route is one thing that the agent can be asked.
type route struct {
	method, path string
	access       access
	about        string   // for people, in the schema
	query        []string // names of the parameters that it takes beside those of the path
	endpoint
}

// table is the whole API.
type table struct {
	routes []route
}

// add adds a route: "METHOD /path", who may ask it, what it is about, its handler and
// the parameters that it takes.
func (t *table) add(pattern string, who access, about string, e endpoint, query ...string) {
	method, path, _ := strings.Cut(pattern, " ")
	t.routes = append(t.routes, route{method: method, path: path, access: who, about: about, query: query, endpoint: e})
}

// mux makes a handler of the table.
func (t *table) mux(s *Server) *http.ServeMux {
	mux := http.NewServeMux()
	for _, r := range t.routes {
		mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, req *http.Request) {
			err := r.admit(CallerFrom(req.Context()))
			if err == nil {
				err = r.checkQuery(req.URL)
			}
			if err != nil {
				s.fail(w, req, err)
				return
			}
			r.serve(w, req)
		})
	}
	return mux
}

// admit refuses a caller whom the route is not for.
func (r route) admit(c Caller) error {
	if r.access == forOperators && c.Tenant != "" {
		return c.refuse("%s %s", r.method, r.path)
	}
	return nil
}

func (r route) checkQuery(u *url.URL) error {
	vals, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "parameters of the request: %w", err)
	}
	for name := range vals {
		if !slices.Contains(r.query, name) {
			return mvm.Errorf(mvm.KindInvalid, "parameter %.40q is unknown here", name)
		}
	}
	return nil
}

// Caller is who asks, once it is known to be true.
type Caller struct {
	// Asker names the caller in the audit log.
	Asker mvm.Asker
	// Tenant is the only tenant that the caller may see and act on; empty: it is an
	// operator and may do everything.
	Tenant string
	// Release, where set, is called at the end of the request.
	Release func()
}

type callerKey struct{}

func withCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(mvm.WithAsker(ctx, c.Asker), callerKey{}, c)
}

// CallerFrom returns who asks. Without one it is a caller that may do nothing.
func CallerFrom(ctx context.Context) Caller {
	if c, ok := ctx.Value(callerKey{}).(Caller); ok {
		return c
	}
	return Caller{Asker: mvm.Asker{Kind: mvm.AskerUnknown}, Tenant: "nobody"}
}

// refuse is the error for what only operators may.
func (c Caller) refuse(format string, args ...any) error {
	return mvm.Errorf(mvm.KindPolicy, "refused to %s: "+format, append([]any{c.Asker}, args...)...).
		WithFix("only operators may do this; this client's certificate is for tenant %s", c.Tenant)
}
