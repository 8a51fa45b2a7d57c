package api_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
)

// raw sends bytes to the socket and returns all that comes back.
func raw(t *testing.T, socket, request string) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(conn)
	return string(got)
}

func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

func get(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
}

func TestHostileRequests(t *testing.T) {
	svc := &script{}
	socket, _ := serve(t, svc, api.ServerConfig{})
	big := strings.Repeat("x", api.MaxBody+1)
	for name, tc := range map[string]struct{ request, want string }{
		"no HTTP":                {"hello\r\n\r\n", "400 Bad Request"},
		"unknown path":           {get("/v2/tenants"), "agent has no GET"},
		"wrong method":           {post("/v1/version", ""), "agent has no POST"},
		"unknown field":          {post("/v1/tenants", `{"id":"a","idd":"b"}`), `unknown field`},
		"wrong type":             {post("/v1/tenants", `{"id":7}`), `"kind":"invalid"`},
		"cut off":                {post("/v1/tenants", `{"id":"a"`), `unexpected EOF`},
		"empty body":             {post("/v1/tenants", ""), `"kind":"invalid"`},
		"two values":             {post("/v1/tenants", `{"id":"a"} {"id":"b"}`), "data after its JSON"},
		"body where none is":     {"GET /v1/tenants HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", "none is expected"},
		"body too large":         {post("/v1/tenants", `{"id":"`+big+`"}`), "more than 1048576 bytes"},
		"chunked and too large":  {"POST /v1/tenants HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(big), big), "more than 1048576 bytes"},
		"huge header":            {"GET /v1/version HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 200<<10) + "\r\n\r\n", "431 Request Header Fields Too Large"},
		"path tricks":            {get("/v1/tenants/..%2f..%2fetc"), `"kind":"invalid"`},
		"bad tenant":             {get("/v1/tenants/ACME"), `"kind":"invalid"`},
		"bad address":            {get("/v1/instances/acme%2Fworkers%2Fnope"), `"kind":"invalid"`},
		"address of a pool":      {get("/v1/instances/acme%2Fworkers"), "does not name an instance"},
		"unknown parameter":      {get("/v1/events?tail=1&evil=2"), "is unknown"},
		"doubled parameter":      {get("/v1/events?tail=1&tail=2"), "is given twice"},
		"path and query differ":  {get("/v1/tenants/acme?tenant=other"), "is unknown here"},
		"not of this question":   {get("/v1/tenants?tail=1"), "is unknown here"},
		"negative tail":          {get("/v1/events?tail=-1"), "is not a number from 0"},
		"bad escape":             {get("/v1/events?tail=%zz"), `"kind":"invalid"`},
		"exec without upgrade":   {get("/v1/instances/i-a3f7b2c1/exec"), "needs an upgrade"},
		"exec without command":   {handshake + wsFrame(0x81, -1, `{"argv":[]}`) + wsFrame(0x88, -1, ""), "no command given"},
		"bad build":              {post("/v1/tenants/acme/pools/p/rollback", `{"build":"../../x"}`), `"kind":"invalid"`},
		"deeply nested":          {post("/v1/tenants", strings.Repeat("[", 500_000)), `"kind":"invalid"`},
		"selector of wrong kind": {post("/v1/tenants/acme/pools", `{"routes":{"routes":[{"target":{"instance_selector":{"by_key":1}}}]}}`), "instance_selector must be"},
	} {
		t.Run(name, func(t *testing.T) {
			before := svc.last()
			if got := raw(t, socket, tc.request); !strings.Contains(got, tc.want) {
				t.Errorf("got %.600q, want it to contain %q", got, tc.want)
			}
			if svc.last() != before {
				t.Errorf("the service was asked: %s", svc.last())
			}
		})
	}
}

func TestDeploymentsMayBeLarger(t *testing.T) {
	c := start(t, &script{})
	d := mvm.Deployment{Tenant: mvm.TenantSpec{ID: "a"}, Secrets: map[string][]byte{"k": bytes.Repeat([]byte("s"), 1<<20)}}
	if _, err := c.Apply(ctxOf(t), d, mvm.ApplyOptions{}, nil); err != nil {
		t.Errorf("a deployment of 1.4 MiB: %v", err)
	}
	d.Secrets["k"] = bytes.Repeat([]byte("s"), 2<<20)
	if _, err := c.Apply(ctxOf(t), d, mvm.ApplyOptions{}, nil); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("a deployment of 2.7 MiB: got %v, want invalid", err)
	}
}

// A client that sends its head or body byte by byte is cut off in the end; here
// only that it holds nothing up meanwhile.
func TestSlowClientsHoldNothingUp(t *testing.T) {
	socket, _ := serve(t, &script{}, api.ServerConfig{})
	for _, start := range []string{"", "POST /v1/tenants HTTP/1.1\r\n", "POST /v1/tenants HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{"} {
		for range 5 {
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, start); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := dial(t, socket).Tenants(ctxOf(t)); err != nil {
		t.Error(err)
	}
}

func TestSlowBodyIsCutOff(t *testing.T) {
	svc := &script{}
	socket, _ := serve(t, svc, api.ServerConfig{BodyTimeout: 200 * time.Millisecond})
	got := raw(t, socket, "POST /v1/tenants HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{")
	if !strings.Contains(got, `"kind":"invalid"`) || svc.last() != "" {
		t.Errorf("got %q, service asked %q", got, svc.last())
	}
}

func TestRequestsAtOnceAreBounded(t *testing.T) {
	svc := &script{block: make(chan struct{})}
	socket, _ := serve(t, svc, api.ServerConfig{MaxInFlight: 2})
	c := dial(t, socket)
	errs := make(chan error, 2)
	at := mvm.Address{Instance: "i-a3f7b2c1"}
	for range 2 {
		go func() {
			for {
				_, err := c.Operate(ctxOf(t), at, mvm.OpRequest{Op: mvm.OpSleep}, nil)
				if mvm.IsKind(err, mvm.KindUnavailable) {
					continue // one of the questions below had its place
				}
				errs <- err
				return
			}
		}()
	}
	eventually(t, func() error {
		_, err := c.Tenants(ctxOf(t))
		if !mvm.IsKind(err, mvm.KindUnavailable) {
			return errors.New("want unavailable, got " + fmt.Sprint(err))
		}
		return nil
	})
	close(svc.block)
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() error { _, err := c.Tenants(ctxOf(t)); return err })
}

// eventually tries until there is no error, for a bounded time.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still, after 20 s: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestOnlyUnixSocketsHavePeers(t *testing.T) {
	_, srv := serve(t, &script{}, api.ServerConfig{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	resp, err := http.Get("http://" + ln.Addr().String() + "/v1/tenants")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "its user is unknown") {
		t.Errorf("over TCP: %d %s, want 403", resp.StatusCode, body)
	}
	ln.Close()
	<-done
}

// TestCloseIsDone: who closes a socket while somebody else does finds it gone, too.
func TestCloseIsDone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 200 {
		ln, err := api.Listen(path, -1)
		if err != nil {
			t.Fatal(err)
		}
		other := make(chan error, 1)
		go func() { other <- ln.Close() }()
		if _, err := ln.AcceptUnix(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v, want that it is closed", err)
		}
		err = ln.Close()
		if _, serr := os.Lstat(path); err != nil || !errors.Is(serr, os.ErrNotExist) {
			t.Fatalf("closed with %v; the socket: %v, want it gone", err, serr)
		}
		if err := <-other; err != nil {
			t.Fatal(err)
		}
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "run", "agent.sock")
	ln, err := api.Listen(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket is %v, %v, want 0600", st.Mode(), err)
	}
	if _, err := api.Listen(path, -1); !mvm.IsKind(err, mvm.KindExists) {
		t.Errorf("second agent on the socket: got %v, want exists", err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if err := ln.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after close: %v, want it gone", err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	again, err := api.Listen(path, os.Getegid())
	if err != nil {
		t.Fatalf("over a socket that a dead agent left: %v", err)
	}
	defer again.Close()
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o660 || st.Sys().(*syscall.Stat_t).Gid != uint32(os.Getegid()) {
		t.Errorf("socket with group is %v, %v, want 0660", st.Mode(), err)
	}
	if _, err := api.Listen(filepath.Join(dir, strings.Repeat("x", 120)), -1); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("path that is too long: got %v, want invalid", err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	for _, socket := range []string{filepath.Join(dir, "none"), dead} {
		_, err := dial(t, socket).Tenants(ctxOf(t))
		if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), socket) || !strings.Contains(err.Error(), "mvm agent serve") {
			t.Errorf("%s: got %v", socket, err)
		}
	}
}

// An agent that dies in the middle of an answer is told from one that answered.
func TestAgentGoesAwayInTheMiddle(t *testing.T) {
	for _, answer := range []string{"", "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1b\r\n{\"progress\":{\"text\":\"one\"}}\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"} {
		socket := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, answer)
			}
		}()
		_, err = dial(t, socket).BuildPool(ctxOf(t), "acme", "w", nil)
		if !mvm.IsKind(err, mvm.KindUnavailable) {
			t.Errorf("after %q: got %v, want unavailable", answer, err)
		}
		ln.Close()
		<-done
	}
}
