package api_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
)

// idKeeper notes the request that it is asked for.
type idKeeper struct {
	api.Service
	id  string
	err error
}

func (k *idKeeper) Tenants(ctx context.Context) ([]mvm.Tenant, error) {
	k.id = mvm.RequestFrom(ctx)
	return nil, k.err
}

// The id of a request is its client's where that is one, and comes back in the header
// and in the body of an error.
func TestRequestIDs(t *testing.T) {
	svc := &idKeeper{}
	socket, _ := serve(t, svc, api.ServerConfig{})
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	own := `^r-[0-9a-f]{12}$`
	for given, want := range map[string]string{"trace.1_A-b": `^trace\.1_A-b$`, "": own, "a b": own, strings.Repeat("x", 65): own, "é": own} {
		req, err := http.NewRequestWithContext(ctxOf(t), "GET", "http://agent/v1/tenants", nil)
		if err != nil {
			t.Fatal(err)
		}
		if given != "" {
			req.Header.Set("X-Request-Id", given)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("X-Request-Id"); got != svc.id || !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("given %q: the service had %q and the client gets %q, want %s", given, svc.id, got, want)
		}
	}
	svc.err = mvm.Errorf(mvm.KindQuota, "no room")
	_, err := dial(t, socket).Tenants(mvm.WithRequest(ctxOf(t), "r-mine"))
	var e *mvm.Error
	if svc.id != "r-mine" || !errors.As(err, &e) || e.Request != "r-mine" {
		t.Errorf("the service had %q, the error is %+v", svc.id, e)
	}
}

// Who counts requests is told of the route and how each ended, of streams too.
func TestRequestsAreCounted(t *testing.T) {
	counted := make(chan string, 10)
	svc := &script{}
	socket, _ := serve(t, svc, api.ServerConfig{Count: func(route, result string, took time.Duration) {
		if took < 0 {
			t.Error("a request took less than no time")
		}
		counted <- route + " " + result
	}})
	c := dial(t, socket)
	want := func(text string) {
		t.Helper()
		if got := <-counted; got != text {
			t.Errorf("counted %q, want %q", got, text)
		}
	}
	_, _ = c.Tenants(ctxOf(t))
	want("GET /v1/tenants ok")
	svc.err = mvm.Errorf(mvm.KindQuota, "no room")
	_, _ = c.Tenants(ctxOf(t))
	want("GET /v1/tenants quota")
	_, _ = c.BuildPool(ctxOf(t), "acme", "workers", nil)
	want("POST /v1/tenants/{tenant}/pools/{pool}/build quota")
	_ = c.Events(ctxOf(t), mvm.EventFilter{}, func(mvm.Event) error { return nil })
	want("GET /v1/events quota")
}
