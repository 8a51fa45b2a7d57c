package remote_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/remote"
)

func TestOversizedRequests(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	dir := n.bundle("laptop", "", day)
	for _, h2 := range []bool{false, true} {
		web := n.web(dir, h2)
		send := func(path string, size int, header string) string {
			text := append(append([]byte(`{"id":"`), bytes.Repeat([]byte("x"), size)...), `"}`...)
			req, err := http.NewRequestWithContext(ctxOf(t), "POST", "https://"+n.addr+path, bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if header != "" {
				req.Header.Set("X-Big", header)
			}
			resp, err := web.Do(req)
			return body(t, resp, err)
		}
		if got := send("/v1/tenants", api.MaxBody+1, ""); !strings.Contains(got, " 400 ") || !strings.Contains(got, "more than 1048576 bytes") {
			t.Errorf("h2 %t, body: %.300s", h2, got)
		}
		if got := send("/v1/deploy", api.MaxDeployBody+1, ""); !strings.Contains(got, " 400 ") || !strings.Contains(got, "more than 2097152 bytes") {
			t.Errorf("h2 %t, deployment: %.300s", h2, got)
		}
		if got := send("/v1/tenants", 3, strings.Repeat("h", 200<<10)); !strings.Contains(got, "431") && !strings.HasPrefix(got, "ERROR") {
			t.Errorf("h2 %t, header: %.300s", h2, got)
		}
	}
	if got := n.svc.asked(); got != "" {
		t.Errorf("the service was asked %s", got)
	}
	if got := get(t, n.web(dir, true), n, "/v1/tenants"); !strings.Contains(got, " 200 ") {
		t.Errorf("afterwards: %s", got)
	}
}

// until reads to the end of a connection, which must come by itself.
func until(t *testing.T, c net.Conn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b, err := io.ReadAll(c)
	var timeout net.Error
	if err != nil && strings.Contains(err.Error(), "i/o timeout") {
		t.Errorf("the connection is still there after 20 s: %v (%v)", err, timeout)
	}
	return string(b)
}

func TestSlowRequests(t *testing.T) {
	n := start(t, remote.Options{Handshake: 300 * time.Millisecond}, api.ServerConfig{HeaderTimeout: 300 * time.Millisecond, BodyTimeout: 300 * time.Millisecond})
	dir := n.bundle("slow", "", day)
	for name, tc := range map[string]struct {
		handshake  bool
		send, want string
	}{
		"handshake never begun": {false, "", ""},
		"handshake cut off":     {false, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ""},
		"header":                {true, "GET /v1/tenants HTTP/1.1\r\nHost: a\r\nX-", ""},
		"body":                  {true, "POST /v1/tenants HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{", `"kind":"invalid"`},
	} {
		t.Run(name, func(t *testing.T) {
			var c net.Conn
			var err error
			if tc.handshake {
				c, err = tls.Dial("tcp", n.addr, conf(t, dir))
			} else {
				c, err = net.Dial("tcp", n.addr)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, tc.send); err != nil {
				t.Fatal(err)
			}
			if got := until(t, c); !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	if got := n.svc.asked(); got != "" {
		t.Errorf("the service was asked %s", got)
	}
}

// A client that reads a stream too slowly loses it, and holds up nothing.
func TestSlowReaderLosesItsStream(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			n := start(t, remote.Options{}, api.ServerConfig{WriteTimeout: 300 * time.Millisecond})
			web := n.web(n.bundle("slow", "", day), proto == "h2")
			resp, err := web.Get("https://" + n.addr + "/v1/events?follow=true")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			big := mvm.Event{Detail: strings.Repeat("x", 256<<10)}
			sent := 0
			for {
				select {
				case n.svc.each <- big:
					if sent++; sent > 1000 {
						t.Fatal("250 MiB were taken for a client that reads nothing")
					}
					continue
				case err := <-n.svc.ended:
					if !mvm.IsKind(err, mvm.KindCanceled) {
						t.Errorf("the stream ended with %v", err)
					}
				case <-time.After(20 * time.Second):
					t.Error("the stream goes on")
				}
				break
			}
			if _, err := n.client("quick", "").Tenants(ctxOf(t)); err != nil {
				t.Errorf("another client: %v", err)
			}
		})
	}
}

// An answer may take longer to find than a client may take to read it, and a stream may be
// quiet for longer than that.
func TestQuietStreamGoesOn(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			n := start(t, remote.Options{}, api.ServerConfig{WriteTimeout: 500 * time.Millisecond})
			n.svc.takes = 1200 * time.Millisecond
			web := n.web(n.bundle("patient", "", day), proto == "h2")
			resp, err := web.Get("https://" + n.addr + "/v1/tenants")
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); resp.Body.Close() != nil || err != nil || !strings.Contains(string(b), "acme") {
				t.Errorf("the tenants: %q, %v", b, err)
			}
			if resp, err = web.Get("https://" + n.addr + "/v1/events?follow=true"); err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewScanner(resp.Body)
			for k := range 2 {
				time.Sleep(1200 * time.Millisecond)
				select {
				case n.svc.each <- mvm.Event{Detail: fmt.Sprint("event ", k)}:
				case err := <-n.svc.ended:
					t.Fatalf("the stream ended before event %d: %v", k, err)
				}
				if !lines.Scan() || !strings.Contains(lines.Text(), fmt.Sprint("event ", k)) {
					t.Fatalf("got %q, %v; want event %d", lines.Text(), lines.Err(), k)
				}
			}
		})
	}
}

// Strangers who only connect keep nobody out for longer than a handshake may last.
func TestManyStrangers(t *testing.T) {
	n := start(t, remote.Options{Handshake: 500 * time.Millisecond}, api.ServerConfig{})
	c := n.client("laptop", "")
	for range 300 {
		s, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
	}
	eventually(t, func() error { _, err := c.Tenants(ctxOf(t)); return err })
}

// One client with many connections has a quarter of them, and leaves the rest to others.
func TestManyConnectionsOfOneClient(t *testing.T) {
	n := start(t, remote.Options{Connections: 8}, api.ServerConfig{})
	greedy := n.bundle("greedy", "", day)
	var open int
	for range 10 {
		c, err := tls.Dial("tcp", n.addr, conf(t, greedy))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /v1/version HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		var b [64]byte
		if k, _ := c.Read(b[:]); strings.HasPrefix(string(b[:k]), "HTTP/1.1 200") {
			open++
		}
	}
	if open != 2 {
		t.Errorf("one client has %d connections of 8, want 2", open)
	}
	for k := range 3 {
		if _, err := n.client(fmt.Sprint("c", k), "").Tenants(ctxOf(t)); err != nil {
			t.Errorf("another client: %v", err)
		}
	}
}

// tooMany asks until the server says that it is asked too often.
func tooMany(t *testing.T, c *http.Client, url string) *http.Response {
	t.Helper()
	for range 200 {
		resp, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusTooManyRequests {
			return resp
		}
		_ = resp.Body.Close()
	}
	t.Fatal("200 requests at once pass")
	return nil
}

func TestTooManyRequests(t *testing.T) {
	n := start(t, remote.Options{Rate: 2, Burst: 3}, api.ServerConfig{})
	dir := n.bundle("eager", "", day)
	web := n.web(dir, false)
	again := n.dial(n.bundle("eager", "", day)) // made now: the rate does not wait for it
	// A request that comes late is let in. By itself, one a second is never too much.
	for try := 0; ; try++ {
		many := tooMany(t, web, "https://"+n.addr+"/v1/version")
		_, err := again.Version(ctxOf(t))
		if got := body(t, many, nil); many.Header.Get("Retry-After") != "1" || !strings.Contains(got, `"kind":"unavailable"`) {
			t.Errorf("got %s, Retry-After %q", got, many.Header.Get("Retry-After"))
		}
		if mvm.IsKind(err, mvm.KindUnavailable) && strings.Contains(err.Error(), "try again in") {
			break
		} else if try == 20 || err != nil {
			t.Fatalf("the same client with another certificate: %v", err)
		}
		time.Sleep(time.Second)
	}
	if _, err := n.client("patient", "").Tenants(ctxOf(t)); err != nil {
		t.Errorf("another client: %v", err)
	}
	c := n.dial(dir)
	eventually(t, func() error { _, err := c.Version(ctxOf(t)); return err })
	if f := n.srv.Figures(); f.Refused["rate"] < 2 || f.Connections < 2 {
		t.Errorf("figures %+v", f)
	}
}

// Streams count against how much one client may have at once.
func TestTooManyStreams(t *testing.T) {
	n := start(t, remote.Options{}, api.ServerConfig{})
	web := n.web(n.bundle("eager", "", day), true)
	var last string
	for range 33 {
		resp, err := web.Get("https://" + n.addr + "/v1/events?follow=true")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			last = body(t, resp, nil)
		}
	}
	if !strings.Contains(last, "429") || !strings.Contains(last, "has 32 requests under way") {
		t.Errorf("the 33rd stream: %q", last)
	}
}
