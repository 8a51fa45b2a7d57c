package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mvm/internal/guest/gateway"
)

const headSize = 64 << 10 // that may be

// begun is a head of that size that goes on.
func begun(size int) string {
	const begin = "GET / HTTP/1.1\r\nHost: x\r\nX-Large: "
	return begin + strings.Repeat("x", size-len(begin))
}

// statusOf sends the bytes and returns the status of the answer.
func (l *lab) statusOf(send string) int {
	l.t.Helper()
	c := l.raw(80, netip.Addr{})
	defer c.Close()
	_, _ = io.WriteString(c, send)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		l.t.Errorf("no answer: %v", err)
		return 0
	}
	if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") == "" {
		l.t.Error("a 503 that does not say when to try again")
	}
	return res.StatusCode
}

// TestLargeHeadsShareMemory: heads that are not finished, and those of requests that are under
// way, count until they are gone.
func TestLargeHeadsShareMemory(t *testing.T) {
	l := newLab(t, gateway.Limits{Heads: 3 * headSize}, webRoute("web", 80, "/", anyOne))
	let, waits := make(chan struct{}), make(chan struct{})
	defer close(let)
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			select {
			case waits <- struct{}{}:
				<-let
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "hello")
	}))
	const end = "\r\n\r\n"
	large := begun(40<<10) + end
	many := "GET / HTTP/1.1\r\nHost: x\r\n"
	for n := range 990 { // each costs more than its bytes
		many += fmt.Sprintf("X%03d:\r\n", n)
	}
	for round := range 5 {
		eventually(t, "all memory is given back", func() bool { return l.router.HeadMemory() == 3*headSize })
		var open []net.Conn
		for n := range 3 {
			c := l.raw(80, netip.Addr{})
			_, _ = io.WriteString(c, begun(60<<10))
			open = append(open, c)
			eventually(t, "the head has memory", func() bool { return l.router.HeadMemory() == 3*headSize-(n+1)*(headSize-4<<10) })
		}
		eventually(t, "there is no memory for another large head", func() bool { return l.statusOf(large) == 503 })
		if got := l.statusOf("GET / HTTP/1.1\r\nHost: x\r\n\r\n"); got != 200 {
			t.Errorf("round %d: a small head is answered with %d, want 200", round, got)
		}
		for _, c := range open {
			_ = c.Close()
		}
		eventually(t, "a large head is taken", func() bool { return l.statusOf(large) == 200 })
		eventually(t, "a head of many fields is taken", func() bool { return l.statusOf(many+"\r\n") == 200 })
		eventually(t, "all memory is given back", func() bool { return l.router.HeadMemory() == 3*headSize })

		for n := range 2 {
			c := l.raw(80, netip.Addr{})
			_, _ = io.WriteString(c, strings.Replace([]string{large, many + "\r\n"}[n], "GET", "PUT", 1))
			select {
			case <-waits:
			case <-time.After(patience):
				t.Fatalf("round %d: large request %d does not reach the instance", round, n)
			}
		}
		if got := l.statusOf(many + "\r\n"); got != 503 {
			t.Errorf("round %d: two large heads are under way, and a third is answered with %d", round, got)
		}
		for range 2 {
			select {
			case let <- struct{}{}:
			case <-time.After(patience):
				t.Fatalf("round %d: a large request has ended by itself", round)
			}
		}
	}
	eventually(t, "nothing is under way", func() bool { return l.router.Active() == 0 })
	eventually(t, "all memory is given back", func() bool { return l.router.HeadMemory() == 3*headSize })
}

// TestHeadGrowsNoFurther: a head of the largest size is not given more room than it takes to see
// that it goes on.
func TestHeadGrowsNoFurther(t *testing.T) {
	l := newLab(t, gateway.Limits{Heads: headSize}, webRoute("web", 80, "/", anyOne))
	if got := l.statusOf(begun(headSize + 1)); got != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d, want 431", got)
	}
	eventually(t, "all memory is given back", func() bool { return l.router.HeadMemory() == headSize })
}
