package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"mvm/internal/guest/gateway"
	"mvm/internal/guestproto"
)

// Bodies of any size get to the instance whole and with their length, by every method
// that may have one; what follows on the connection is the next request.
func TestBodiesArriveWhole(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d %d %v %v", r.Method, r.ContentLength, len(b), strings.Trim(string(b), "x") == "", err)
	}))
	for _, method := range []string{"GET", "DELETE", "OPTIONS", "POST", "PUT", "PATCH", "ODD"} {
		for _, size := range []int{0, 1, 2, 4095, 4096, 70_000} {
			want := fmt.Sprintf("%s %d %d true <nil>", method, size, size)
			if code, _, got := l.do(method, 80, "/", strings.Repeat("x", size)); code != 200 || got != want {
				t.Errorf("%s with %d bytes: %d %q, want %q", method, size, code, got, want)
			}
			body := io.MultiReader(strings.NewReader(strings.Repeat("x", size/2)), strings.NewReader(strings.Repeat("x", size-size/2)))
			req, err := http.NewRequest(method, "http://"+l.at(80)+"/", body) // of unknown length
			if err != nil {
				t.Fatal(err)
			}
			res, err := client().Do(req)
			if err != nil {
				t.Errorf("%s with %d bytes in chunks: %v", method, size, err)
				continue
			}
			got, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if size > 0 && string(got) != fmt.Sprintf("%s -1 %d true <nil>", method, size) {
				t.Errorf("%s with %d bytes in chunks: %q", method, size, got)
			}
		}
	}
}

// A key within an array is found by its index as it is written in JSON pointers, and by
// nothing like it.
func TestKeysInArrays(t *testing.T) {
	for pointer, want := range map[string]string{"/0": "first", "/1": "2", "/2/id": "third", "/3/0": "deep", "/4/a~1b": "slash", "/4/m~0n": "tilde",
		"/00": "", "/01": "", "/-1": "", "/+1": "", "/5": "", "/x": "", "/": "", "/-": "", "/0/0": "", "/2": "", "/2/other": ""} {
		l := newLab(t, gateway.Limits{}, webRoute("json", 80, "/j", byKey("json:"+pointer)))
		l.instance(ip3, named("served"))
		code, _, got := l.do("POST", 80, "/j", `["first", 2, {"id": "third"}, ["deep"], {"a/b": "slash", "m~n": "tilde"}]`)
		keys := []string{}
		for _, a := range l.host.asked() {
			keys = append(keys, a.Key)
		}
		switch {
		case want == "" && (code != 400 || len(keys) > 0):
			t.Errorf("%s: %d %q, asked for %q; want it refused", pointer, code, got, keys)
		case want != "" && (code != 200 || len(keys) != 1 || keys[0] != want):
			t.Errorf("%s: %d %q, asked for %q; want %q", pointer, code, got, keys, want)
		}
	}
}

// A refused request says when to come back only where that helps.
func TestRefusalsThatTimeDoesNotMend(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("path", 80, "/u", byKey("path")), webRoute("header", 80, "/h", byKey("header:X-User")), webRoute("json", 80, "/j", byKey("json:/id")))
	l.instance(ip3, named("served"))
	for _, c := range []struct {
		method, path, body string
		want               int
	}{{"GET", "/nowhere", "", 404}, {"GET", "/u/", "", 404}, {"GET", "/h", "", 400}, {"POST", "/j", "{", 400}, {"POST", "/j", `{"id":[]}`, 400}, {"CONNECT", "/u/a", "", 405}} {
		code, h, got := l.do(c.method, 80, c.path, c.body)
		if h.Get("Retry-After") != "" || code/100 != 4 {
			t.Errorf("%s %s: %d with Retry-After %q, %q", c.method, c.path, code, h.Get("Retry-After"), got)
		}
	}
}

// What the gateway has kept to an instance ends when the instance is fenced: a sleeper has
// no connection.
func TestFenceEndsIdleConnections(t *testing.T) {
	for name, fence := range map[string]func(l *lab){
		"one": func(l *lab) { l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3}) },
		"one whose memory is gone": func(l *lab) {
			l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3, Gone: true, Boot: 1 << 40})
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
			var open atomic.Int32
			s := httptest.NewUnstartedServer(named("served"))
			s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
				switch st {
				case http.StateNew:
					open.Add(1)
				case http.StateClosed:
					open.Add(-1)
				}
			}
			s.Start()
			t.Cleanup(s.Close)
			l.place(ip3.String()+":80", s.Listener.Addr().String())
			l.want(80, "/", 200, "served")
			eventually(t, "the request has ended", func() bool { return l.router.Active() == 0 })
			if n := open.Load(); n != 1 {
				t.Fatalf("%d connections are kept, want one", n)
			}
			fence(l)
			eventually(t, "the connection ends", func() bool { return open.Load() == 0 })
		})
	}
}
