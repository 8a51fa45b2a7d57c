package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"mvm"
	"mvm/internal/guest/gateway"
	"mvm/internal/guestproto"
)

// rawGet sends the request line as it is and returns the status, and what the instance
// saw where one answered.
func (l *lab) rawGet(port int, target string, lines ...string) (int, string) {
	l.t.Helper()
	c := l.raw(port, netip.Addr{})
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", target)
	for _, line := range lines {
		fmt.Fprintf(c, "%s\r\n", line)
	}
	fmt.Fprint(c, "\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		l.t.Fatalf("GET %s: %v", target, err)
	}
	defer res.Body.Close()
	b := make([]byte, 512)
	n, _ := res.Body.Read(b)
	return res.StatusCode, string(b[:n])
}

// Everybody may come to /public of one instance; the rest is for an address that nobody
// here has. No way to write a path leads around that, and what is served arrives as it
// was sent.
func TestPathsDoNotWalkAroundARoute(t *testing.T) {
	inside := webRoute("inside", 80, "/", mvm.Selector{Kind: mvm.SelectByIP, IP: ip3})
	inside.Match.SourceCIDR = "192.0.2.0/24"
	l := newLab(t, gateway.Limits{}, inside,
		webRoute("public", 80, "/public", mvm.Selector{Kind: mvm.SelectByIP, IP: ip3}),
		webRoute("admin", 80, "/public/admin", mvm.Selector{Kind: mvm.SelectByIP, IP: ip4}))
	l.host.script(func(_ context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error) {
		return guestproto.AcquireResult{Success: true, Instances: []guestproto.Awake{{InstanceID: map[netip.Addr]string{ip3: id3, ip4: id4}[a.IP], IP: a.IP}}}, nil
	})
	l.instance(ip3, named("three"))
	l.instance(ip4, named("four"))
	for _, c := range []struct {
		path   string
		status int
		by     string
	}{
		{"/public/x", 200, "three"}, {"/public", 200, "three"}, {"/public/", 200, "three"},
		{"/public/admin/x", 200, "four"}, {"/public//x", 200, "three"}, {"/public/redirect/http://example.org/", 200, "three"},
		{"/public/group%2Fproject", 200, "three"}, {"/public/a;v=1", 200, "three"}, {"/public/What%3F%20%C3%A9", 200, "three"},
		{"http://other/public/x", 200, "three"}, {"/%70ublic/x", 200, "three"},
		{"/secret", 404, ""}, {"//public/secret", 400, ""}, {"/public/../secret", 400, ""}, {"/public/%2e%2e/secret", 400, ""},
		{"/public/.%2e/secret", 400, ""}, {"/public%2f..%2fsecret", 400, ""}, {"/public/..;/secret", 400, ""}, {`/public\..\secret`, 400, ""},
		{"/public/%5c..%5c/secret", 400, ""}, {"/public/%252e%252e/secret", 400, ""}, {"/public/./x", 400, ""}, {"/public/x%00", 400, ""},
		{"/public//admin/x", 400, ""}, {"/public/admin%2Fx", 400, ""}, {"/public%2Fadmin/x", 400, ""}, {"/public;x/admin", 400, ""},
		{"/public/%2561dmin/x", 400, ""}, {"http:public", 400, ""}, {"/public/x%0d%0aX-Mvm-User:%20bob", 400, ""},
	} {
		status, got := l.rawGet(80, c.path)
		want := c.by + " " + c.path + " "
		if c.path == "http://other/public/x" {
			want = c.by + " /public/x "
		}
		if status != c.status || status == 200 && got != want {
			t.Errorf("GET %s = %d %q, want %d %q", c.path, status, got, c.status, want)
		}
	}
	for _, a := range l.host.asked() {
		if a.IP != ip3 && a.IP != ip4 {
			t.Errorf("the host was asked for %+v", a)
		}
	}
}

// With one route for all of it a worker gets every path as it was sent: whatever it
// takes it for, it is the same route.
func TestOneRouteTakesPathsAsTheyCome(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	for _, path := range []string{"//", "/a//b", "/redirect/http://x/y", "/a%2fb%2Fc", "/a;b=c/d", "/%25zz", "/%2561", "/a%5Cb", "/q?x=/../%2e%2e"} {
		if status, got := l.rawGet(80, path); status != 200 || got != "three "+path+" " {
			t.Errorf("GET %s = %d %q, want it as it is", path, status, got)
		}
	}
	if status, _ := l.rawGet(80, "/a/../b"); status != 400 {
		t.Errorf("a dot segment got %d, want 400", status)
	}
}

// A key in the path is the same however the path is read.
func TestPathKeysHaveOneReading(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("users", 80, "/u", byKey("path")))
	l.instance(ip3, named("three"))
	for path, want := range map[string]string{"/u/ann@example.org/files//a%2Fb;c": "ann@example.org", "/u/bob%2Bx@example.org": "bob+x@example.org",
		"/u//bob": "", "/u/a%2Fb": "", "/u/bob;x/f": "", "/u/%2562ob": "", "/u;x/bob": "", `/u/a%5cb`: ""} {
		before := len(l.host.asked())
		status, got := l.rawGet(80, path)
		asked := l.host.asked()[before:]
		if want == "" {
			if status != 400 || len(asked) > 0 {
				t.Errorf("GET %s = %d %q, asked %v; want 400", path, status, got, asked)
			}
		} else if status != 200 || len(asked) != 1 || asked[0].Key != want {
			t.Errorf("GET %s = %d %q, asked %v; want key %s", path, status, got, asked, want)
		}
	}
}
