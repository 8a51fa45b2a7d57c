package publish_test

import (
	"net"
	"sync"
	"testing"

	"mvm/internal/publish"
)

// TestToldOfEnds: of every connection that Dial returned, Closed is told once: of one
// that ends by itself, and of one that ends with its port.
func TestToldOfEnds(t *testing.T) {
	g := newGateway(t, echo)
	p := newPublisher(t, publish.Limits{})
	var mu sync.Mutex
	ended := map[net.Conn]int{}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		for c, n := range ended {
			if n != 1 {
				t.Errorf("%v ended %d times", c.RemoteAddr(), n)
			}
		}
		return len(ended)
	}
	b := binding(g, 8080)
	b.Closed = func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		ended[c]++
	}
	at := apply(t, p, b)[0]
	first, second := connect(t, at), connect(t, at)
	<-g.peers
	<-g.peers
	if n := count(); n != 0 {
		t.Errorf("%d have ended while all are open", n)
	}
	_ = first.Close()
	eventually(t, "the first ended", func() bool { return count() == 1 })
	if _, err := p.Apply(nil); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2 {
		t.Errorf("%d have ended with their port, want both", n)
	}
	_ = second.Close()
}
