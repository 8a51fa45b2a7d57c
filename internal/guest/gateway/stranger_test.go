package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/gateway"
	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guestproto"
)

// The host is told where a key comes from that nobody vouches for, and whether its
// instance answered; the client is told when to try again, and nothing of the tenant.
func TestStrangersAreToldApart(t *testing.T) {
	none, proxied := webRoute("none", 80, "/", byKey("header:x-mvm-user")), webRoute("proxied", 81, "/", byKey("header:x-mvm-user"))
	proxied.Auth = &mvm.Auth{Mode: mvm.AuthProxy, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	l := newLab(t, gateway.Limits{Roster: roster.Limits{Report: 10 * time.Millisecond}}, none, proxied, webRoute("any", 82, "/", anyOne))
	var status atomic.Int32
	status.Store(404)
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }))
	answered := func() bool {
		for _, a := range l.host.reported() {
			if a.Answered {
				return true
			}
		}
		return false
	}
	for port, want := range map[int]netip.Addr{80: netip.MustParseAddr("127.0.0.1"), 81: {}, 82: {}} {
		l.do("GET", port, "/", "", "X-Mvm-User", fmt.Sprint("ann", port))
		l.host.mu.Lock()
		got := l.host.sources[len(l.host.sources)-1]
		l.host.mu.Unlock()
		if got != want {
			t.Errorf("port %d: the host was told source %v, want %v", port, got, want)
		}
	}
	eventually(t, "a report", func() bool { return len(l.host.reported()) > 0 })
	if answered() {
		t.Error("answers of 404 count as served")
	}
	status.Store(200)
	l.do("GET", 80, "/", "", "X-Mvm-User", "ann80")
	eventually(t, "that it answered is reported", answered)

	l.host.script(func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
		why := "tenant acme: max_running is 8 and this would make it 9"
		return guestproto.AcquireResult{Detail: &why, RetrySecs: 7, Limited: true}, nil
	})
	code, h, body := l.do("GET", 80, "/", "", "X-Mvm-User", "another")
	if code != 429 || h.Get("Retry-After") != "7" || strings.ContainsAny(body, "0123456789") || strings.Contains(body, "acme") {
		t.Errorf("too many keys: %d, Retry-After %q, %q", code, h.Get("Retry-After"), body)
	}
}

// A trailer says nothing of the user that the header did not.
func TestTrailersNameNoUser(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("users", 80, "/", byKey("header:x-mvm-user")))
	seen := make(chan http.Header, 1)
	l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen <- r.Trailer
	}))
	c := l.raw(80, netip.Addr{})
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nX-Mvm-User: ann\r\nTransfer-Encoding: chunked\r\nTrailer: X-Mvm-User, X_Mvm_User, X-Sum\r\n\r\n"+
		"2\r\nhi\r\n0\r\nX-Mvm-User: bob\r\nX_Mvm_User: bob\r\nX-Sum: 1\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 {
		t.Fatalf("%v, %v", res, err)
	}
	trailer := <-seen
	if len(trailer) != 1 || trailer.Get("X-Sum") != "1" {
		t.Errorf("the instance got the trailer %v, want X-Sum alone", trailer)
	}
}
