package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mvm/internal/guest/gateway"
)

// A client that reads nothing of what comes before its answers stands still alone: when
// another one goes away, its instance hears of it.
func TestClientThatReadsNothingHoldsUpNobody(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	hint := strings.Repeat("h", 15<<10)
	var hinted atomic.Int64
	waits, ended := make(chan struct{}), make(chan struct{})
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			close(waits)
			<-r.Context().Done()
			close(ended)
			return
		}
		w.Header().Set("Link", hint)
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		hinted.Add(1)
	}))
	deaf := l.raw(80, netip.Addr{})
	if err := deaf.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(deaf, strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1000)) }()
	last, since := int64(-1), time.Now()
	defer func() { t.Logf("%d answers were sent to the deaf client", last) }()
	eventually(t, "the deaf client stands still", func() bool {
		if n := hinted.Load(); n != last || n == 0 {
			last, since = n, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	if last > 900 {
		t.Fatalf("it was sent %d answers and does not stand still", last)
	}
	other := l.raw(80, netip.Addr{})
	if _, err := fmt.Fprint(other, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-waits
	_ = other.Close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the instance was not told that its client had gone away")
	}
	_ = deaf.Close()
}
