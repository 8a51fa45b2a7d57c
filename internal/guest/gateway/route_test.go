package gateway_test

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/guest/gateway"
	"mvm/internal/guestproto"
)

func TestSelectorsAskForTheRightInstance(t *testing.T) {
	l := newLab(t, gateway.Limits{},
		webRoute("any", 80, "/any", anyOne),
		webRoute("least", 80, "/least", mvm.Selector{Kind: mvm.SelectLeastConnections}),
		webRoute("ip", 80, "/ip", mvm.Selector{Kind: mvm.SelectByIP, IP: ip3}),
		webRoute("path", 80, "/u", byKey("path")),
		webRoute("header", 80, "/h", byKey("header:X-User")),
		webRoute("host", 80, "/host", byKey("header:Host")),
		webRoute("query", 80, "/q", byKey("query:user")),
		webRoute("json", 80, "/j", byKey("json:/message/chat/id")))
	l.instance(ip3, named("three"))
	for _, c := range []struct {
		path, body string
		header     []string
		want       guestproto.Acquire
	}{
		{"/any", "", nil, guestproto.Acquire{Spread: true}},
		{"/least", "", nil, guestproto.Acquire{Spread: true}},
		{"/ip", "", nil, guestproto.Acquire{IP: ip3}},
		{"/u/alice/x", "", nil, guestproto.Acquire{Key: "alice"}},
		{"/h", "", []string{"X-User", "bob"}, guestproto.Acquire{Key: "bob"}},
		{"/host", "", []string{"Host", "carol.example"}, guestproto.Acquire{Key: "carol.example"}},
		{"/q?a=b&user=dave", "", nil, guestproto.Acquire{Key: "dave"}},
		{"/j", `{"x":[1,{"y":null}],"message":{"chat":{"id":-100123}}}`, nil, guestproto.Acquire{Key: "-100123"}},
	} {
		before := len(l.host.asked())
		code, _, got := l.do("POST", 80, c.path, c.body, c.header...)
		if want := "three " + c.path + " " + c.body; code != 200 || got != want {
			t.Errorf("POST %s = %d %q, want 200 %q", c.path, code, got, want)
		}
		c.want.TenantID, c.want.PoolID = "acme", "workers"
		asked := l.host.asked()[before:]
		if len(asked) != 1 || asked[0] != c.want {
			t.Errorf("POST %s asked for %+v, want once %+v", c.path, asked, c.want)
		}
		if l.do("POST", 80, c.path, c.body, c.header...); len(l.host.asked()) != before+1 {
			t.Errorf("POST %s: the second request asked the host again", c.path)
		}
	}
}

func TestBadKeysAreRefused(t *testing.T) {
	l := newLab(t, gateway.Limits{KeyBody: 1000},
		webRoute("path", 80, "/u", byKey("path")),
		webRoute("header", 80, "/h", byKey("header:X-User")),
		webRoute("query", 80, "/q", byKey("query:user")),
		webRoute("json", 80, "/j", byKey("json:/id")))
	for _, c := range []struct {
		path, body string
		header     []string
		status     int
		text       string
	}{
		{"/u", "", nil, 400, "the path ends before it"},
		{"/u/", "", nil, 400, "the path ends before it"},
		{"/u/a%2Fb", "", nil, 400, "encoded slash"},
		{"/u/%2e%2e/x", "", nil, 400, "dot segment"},
		{"/u/a%20b", "", nil, 400, "not allowed"},
		{"/u/" + strings.Repeat("x", 129), "", nil, 400, "1 to 128"},
		{"/h", "", nil, 400, "missing"},
		{"/h", "", []string{"X-User", "a", "X-User", "b"}, 400, "2 times"},
		{"/h", "", []string{"X-User", "a b"}, 400, "not allowed"},
		{"/q", "", nil, 400, "missing"},
		{"/q?user=a&user=b", "", nil, 400, "2 times"},
		{"/q?user=%zz", "", nil, 400, "malformed"},
		{"/j", "", nil, 400, "not one valid JSON"},
		{"/j", `{"id":"a"`, nil, 400, "not one valid JSON"},
		{"/j", `{"id":"a"}{}`, nil, 400, "not one valid JSON"},
		{"/j", `{"id":"a","id":"b"}`, nil, 400, "two values"},
		{"/j", `{"id":1.5}`, nil, 400, "not a string"},
		{"/j", `{"id":{"id":1}}`, nil, 400, "not a string"},
		{"/j", `{"id":true}`, nil, 400, "not a string"},
		{"/j", `{"ID":"a"}`, nil, 400, "no value"},
		{"/j", `"a"`, nil, 400, "no value"},
		{"/j", `{"id":"a/b"}`, nil, 400, "not allowed"},
		{"/j", `{"id":"` + strings.Repeat("x", 1000) + `"}`, nil, 413, "larger than"},
		{"/nowhere", "", nil, 404, "no route"},
	} {
		code, _, got := l.do("POST", 80, c.path, c.body, c.header...)
		if code != c.status || !strings.Contains(got, c.text) {
			t.Errorf("POST %s %.40q = %d %q, want %d with %q", c.path, c.body, code, got, c.status, c.text)
		}
	}
	if asked := l.host.asked(); len(asked) != 0 {
		t.Errorf("the host was asked: %+v", asked)
	}
}

func TestLongestPrefixWins(t *testing.T) {
	l := newLab(t, gateway.Limits{},
		webRoute("root", 80, "/", mvm.Selector{Kind: mvm.SelectByIP, IP: ip3}),
		webRoute("api", 80, "/api", mvm.Selector{Kind: mvm.SelectByIP, IP: ip4}))
	l.host.script(func(_ context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error) {
		id := map[netip.Addr]string{ip3: id3, ip4: id4}[a.IP]
		return guestproto.AcquireResult{Success: true, Instances: []guestproto.Awake{{InstanceID: id, IP: a.IP}}}, nil
	})
	l.instance(ip3, named("three"))
	l.instance(ip4, named("four"))
	l.want(80, "/x", 200, "three /x")
	l.want(80, "/api/x", 200, "four /api/x")
	l.want(80, "/apix", 200, "three /apix")
}

func TestLeastConnections(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("least", 80, "/", mvm.Selector{Kind: mvm.SelectLeastConnections}))
	l.host.script(says(awake3, awake4))
	release := make(chan struct{})
	hold := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Served-By", name)
			w.(http.Flusher).Flush()
			<-release
		})
	}
	defer close(release)
	l.instance(ip3, hold("three"))
	l.instance(ip4, hold("four"))
	counts := map[string]int{}
	for range 6 {
		res, err := client().Get("http://" + l.at(80))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		counts[res.Header.Get("Served-By")]++
	}
	if counts["three"] != 3 || counts["four"] != 3 {
		t.Errorf("6 requests were spread %v, want 3 each", counts)
	}
	if n := l.router.Active(); n != 6 {
		t.Errorf("Active() = %d, want 6", n)
	}
}

// "any" means each in turn. One that fell asleep is left out, and one that woke is in.
func TestAnySpreads(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("any", 80, "/", anyOne))
	l.host.script(says(awake3, awake4))
	l.instance(ip3, named("three"))
	l.instance(ip4, named("four"))
	counts := map[string]int{}
	for range 10 {
		_, _, body := l.do("GET", 80, "/", "")
		counts[strings.Fields(body)[0]]++
	}
	if counts["three"] != 5 || counts["four"] != 5 {
		t.Errorf("10 requests were spread %v, want 5 each", counts)
	}
	l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
	for range 3 {
		l.want(80, "/", 200, "four /")
	}
}

func TestForwardedHeadersAreTheGatewaysOwn(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	seen := make(chan *http.Request, 1)
	l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r }))
	l.do("GET", 80, "/p%20q?x=;y", "", "Host", "user.example", "X-Forwarded-For", "1.2.3.4", "X-Real-IP", "1.2.3.4", "Forwarded", "for=1.2.3.4")
	r := <-seen
	if got := r.Header.Get("X-Forwarded-For"); got != "127.0.0.1" {
		t.Errorf("X-Forwarded-For = %q, want the peer alone", got)
	}
	if r.Header.Get("X-Real-Ip") != "" || r.Header.Get("Forwarded") != "" {
		t.Errorf("what the client claims passed: %v", r.Header)
	}
	if r.Host != "user.example" || r.RequestURI != "/p%20q?x=;y" {
		t.Errorf("got host %q, uri %q", r.Host, r.RequestURI)
	}
}

// TestTrustedProxiesSayWhoTheirClientsAre: nobody else does, and to what they say the
// gateway adds whom it knows itself.
func TestTrustedProxiesSayWhoTheirClientsAre(t *testing.T) {
	names := []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Real-Ip"}
	claims := []string{"Host", "user.example", "X-Forwarded-For", "1.2.3.4", "X-Forwarded-For", "10.1.1.1", "X-Forwarded-Host", "outer.example",
		"X-Forwarded-Proto", "https", "Forwarded", "for=1.2.3.4;proto=https", "X-Real-IP", "1.2.3.4", "X_Forwarded_For", "6.6.6.6"}
	for _, c := range []struct {
		name    string
		trusted []netip.Prefix
		sent    []string
		want    []string
	}{
		{"nobody is trusted", nil, claims, []string{"127.0.0.1", "user.example", "http", "", ""}},
		{"another is", []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, claims, []string{"127.0.0.1", "user.example", "http", "", ""}},
		{"it is trusted", []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("127.0.0.0/8")}, claims,
			[]string{"1.2.3.4, 10.1.1.1, 127.0.0.1", "outer.example", "https", "for=1.2.3.4;proto=https, for=127.0.0.1;proto=http", ""}},
		{"it is trusted and says nothing", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, claims[:2], []string{"127.0.0.1", "user.example", "http", "", ""}},
		{"it says two things", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, append([]string{"X-Forwarded-Proto", "http"}, claims[:12]...),
			[]string{"1.2.3.4, 10.1.1.1, 127.0.0.1", "outer.example", "http", "for=1.2.3.4;proto=https, for=127.0.0.1;proto=http", ""}},
	} {
		route := webRoute("web", 80, "/", anyOne)
		route.TrustedProxies = c.trusted
		l := newLab(t, gateway.Limits{}, route)
		seen := make(chan http.Header, 1)
		l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header }))
		l.do("GET", 80, "/", "", c.sent...)
		h := <-seen
		for n, name := range names {
			if got := strings.Join(h.Values(name), " | "); got != c.want[n] {
				t.Errorf("%s: the instance got %s %q, want %q", c.name, name, got, c.want[n])
			}
		}
		if h["X_forwarded_for"] != nil {
			t.Errorf("%s: a name that passes for another came through", c.name)
		}
	}
}

func TestConfigureOpensAndClosesPorts(t *testing.T) {
	web, other := webRoute("web", 80, "/", anyOne), webRoute("other", 81, "/", anyOne)
	l := newLab(t, gateway.Limits{}, web)
	l.instance(ip3, named("three"))
	first := l.at(80)
	long := l.raw(80, netip.Addr{})
	if err := l.router.Configure(l.config(web, other)); err != nil {
		t.Fatal(err)
	}
	if l.at(80) != first {
		t.Error("a port that stays was opened anew")
	}
	l.want(80, "/", 200, "three")
	l.want(81, "/", 200, "three")
	if err := l.router.Configure(l.config(other)); err != nil {
		t.Fatal(err)
	}
	l.want(81, "/", 200, "three")
	if _, err := client().Get("http://" + first); err == nil {
		t.Error("a port without a route still takes connections")
	}
	// The connection of the closed port lives on, and is routed by the new table.
	if _, err := long.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 12)
	if _, err := long.Read(buf); err != nil || string(buf) != "HTTP/1.1 404" {
		t.Errorf("the old connection got %q, %v", buf, err)
	}
	bad := l.config(web, web)
	if err := l.router.Configure(bad); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("a table with a route twice: %v", err)
	}
	l.want(81, "/", 200, "three")
}

func TestPublishedPortWithoutRouteSaysSo(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.want(8443, "/", 404, "no route matches port 8443")
}

func TestConnectIsRefused(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	c := l.raw(80, netip.Addr{})
	_, _ = c.Write([]byte("CONNECT 10.240.5.3:22 HTTP/1.1\r\nHost: x\r\n\r\n"))
	buf := make([]byte, 12)
	if _, err := c.Read(buf); err != nil || string(buf) != "HTTP/1.1 405" {
		t.Errorf("CONNECT got %q, %v", buf, err)
	}
}
