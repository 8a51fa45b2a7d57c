package gateway_test

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"mvm/internal/guest/gateway"
)

// TestWhatIsSentTwice: the worker reads the request on a pooled connection and breaks off.
// Only what is the same done twice, and is still there whole, comes a second time.
func TestWhatIsSentTwice(t *testing.T) {
	for _, c := range []struct {
		method, body string
		want         int32
	}{
		{"GET", "", 2}, {"HEAD", "", 2}, {"OPTIONS", "", 2},
		{"GET", "body", 1}, {"OPTIONS", "body", 1},
		{"PUT", "", 1}, {"PUT", "body", 1}, {"DELETE", "", 1}, {"DELETE", "body", 1},
		{"PATCH", "", 1}, {"PATCH", "body", 1}, {"POST", "", 1}, {"PROPFIND", "", 1},
	} {
		l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
		var times atomic.Int32
		l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			if r.URL.Path == "/warm" {
				return
			}
			times.Add(1)
			panic(http.ErrAbortHandler)
		}))
		l.want(80, "/warm", 200, "")
		eventually(t, "the connection is pooled", func() bool { return l.router.Active() == 0 })
		code, _, _ := l.do(c.method, 80, "/", c.body)
		if code != 502 || times.Load() != c.want {
			t.Errorf("%s with body %q: %d, came %d times; want 502 and %d", c.method, c.body, code, times.Load(), c.want)
		}
	}
}
