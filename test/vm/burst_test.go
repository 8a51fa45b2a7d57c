package vm_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// testBurst: as many connections as requests arrive at a worker that is awake, at most,
// and each request once and with an answer.
func (h *host) testBurst(web string) {
	h.page(web, "/hello")
	for _, size := range []int{100, 800} {
		conns, requests := h.arrived()
		r := rush(size, func() (net.Conn, error) { return net.DialTimeout("tcp", web, patience) })
		if n := r.answers["200"]; n != size {
			h.t.Errorf("%d at once: the answers are %v", size, r.answers)
		}
		connsNow, requestsNow := h.arrived()
		if n := requestsNow - requests - 1; n != size { // without the last question itself
			h.t.Errorf("%d requests arrived, want %d", n, size)
		}
		if n := connsNow - conns - 1; n > size {
			h.t.Errorf("%d connections arrived for %d requests", n, size)
		}
	}
}

// arrived is how many connections and requests the worker has taken, this question's
// included.
func (h *host) arrived() (conns, requests int) {
	h.t.Helper()
	text := h.page(h.only("workers").IP.String()+":8000", "/arrived")
	if _, err := fmt.Sscan(text, &conns, &requests); err != nil {
		h.t.Fatalf("the worker's counters are %q: %v", text, err)
	}
	return conns, requests
}

// burst is what became of a burst.
type burst struct {
	arrived int // connections at the worker
	answers map[string]int
	took    []time.Duration
}

// rush has that many clients connect and ask at once.
func rush(size int, connect func() (net.Conn, error)) burst {
	r := burst{answers: map[string]int{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range size {
		wg.Go(func() {
			<-start
			began := time.Now()
			answer := "no connection"
			c, err := connect()
			if err == nil {
				defer c.Close()
				if answer, err = oneRequest(c, bufio.NewReader(c)); err != nil {
					answer = "broken off"
				}
			}
			mu.Lock()
			defer mu.Unlock()
			r.answers[answer]++
			if answer == "200" { // a refusal is quick, and no answer
				r.took = append(r.took, time.Since(began))
			}
		})
	}
	close(start)
	wg.Wait()
	return r
}

// oneRequest asks once on the connection and returns the status.
func oneRequest(c net.Conn, in *bufio.Reader) (string, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "GET /hello HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"); err != nil {
		return "", err
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return fmt.Sprint(res.StatusCode), err
}
