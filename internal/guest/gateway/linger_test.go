package gateway_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm/internal/guest/gateway"
	"mvm/internal/guestproto"
)

// refusals are requests that the gateway answers itself: what they are refused with, and
// what begins them.
var refusals = []struct {
	status int
	head   string
}{
	{404, "POST /nowhere HTTP/1.1\r\nHost: x\r\n"},
	{400, "POST /h HTTP/1.1\r\nHost: x\r\n"},                    // no key
	{413, "POST /j HTTP/1.1\r\nHost: x\r\n"},                    // a key in a body that is too large
	{400, "POST / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n"},    // malformed
	{502, "POST /u/gone HTTP/1.1\r\nHost: x\r\n"},               // refused by the host
	{431, "POST / HTTP/1.1\r\nHost: x\r\nBig: " + big + "\r\n"}, // a head that is too large
}

var big = strings.Repeat("x", 12<<10)

func refusingLab(t *testing.T) *lab {
	l := newLab(t, gateway.Limits{KeyBody: 1000, HeadBytes: 4 << 10}, webRoute("h", 80, "/h", byKey("header:X-User")),
		webRoute("j", 80, "/j", byKey("json:/id")), webRoute("u", 80, "/u", byKey("path")))
	l.host.script(refuses("it is gone", 0))
	return l
}

// TestRefusalsAreRead: a client that sends all of its request before it reads gets the
// answer, however large the body is and however slowly it comes.
func TestRefusalsAreRead(t *testing.T) {
	l := refusingLab(t)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, r := range refusals {
		for _, size := range []int{2 << 10, 300 << 10, 3 << 20} {
			for _, closing := range []string{"", "Connection: close\r\n"} {
				for _, pace := range []time.Duration{0, 15 * time.Millisecond} {
					for range 5 {
						slots <- struct{}{}
						wg.Go(func() {
							defer func() { <-slots }()
							head := fmt.Sprintf("%s%sContent-Length: %d\r\n\r\n", r.head, closing, size)
							if got, err := sendThenRead(l.at(80), head, size, pace); err != nil || got != r.status {
								t.Errorf("%.20q %q of %d bytes, each part after %v: got %d, %v; want %d", r.head, closing, size, pace, got, err, r.status)
							}
						})
					}
				}
			}
		}
	}
	wg.Wait()
	eventually(t, "nothing is under way", func() bool { return l.router.Active() == 0 })
}

// sendThenRead sends a request whole, in 16 parts, and then reads the answer.
func sendThenRead(at, head string, size int, pace time.Duration) (int, error) {
	c, err := net.Dial("tcp", at)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	if _, err := io.WriteString(c, head); err != nil {
		return 0, fmt.Errorf("send head: %w", err)
	}
	part := bytes.Repeat([]byte("x"), size/16)
	for n := range 16 {
		time.Sleep(pace)
		if _, err := c.Write(part); err != nil {
			return 0, fmt.Errorf("send part %d: %w", n, err)
		}
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.ReadAll(res.Body)
	return res.StatusCode, err
}

// TestRefusalDoesNotWaitForTheBody: nor does it keep the connection of a client that
// never sends it.
func TestRefusalDoesNotWaitForTheBody(t *testing.T) {
	l := newLab(t, gateway.Limits{Linger: 50 * time.Millisecond}, webRoute("u", 80, "/u", byKey("path")))
	for _, size := range []int{100, 1 << 20} {
		c := l.raw(80, netip.Addr{})
		fmt.Fprintf(c, "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nsome", size)
		r := bufio.NewReader(c)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != 404 || !res.Close {
			t.Fatalf("got %+v, %v; want a 404 that ends the connection", res, err)
		}
		_, _ = io.ReadAll(res.Body)
		if _, err := r.ReadByte(); err == nil || isTimeout(err) {
			t.Errorf("after the answer: %v, want the end", err)
		}
	}
	kept := l.raw(80, netip.Addr{}) // one whose body is there can be used again
	r := bufio.NewReader(kept)
	for range 3 {
		fmt.Fprint(kept, "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nsome")
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != 404 || res.Close {
			t.Fatalf("got %+v, %v; want a 404 that keeps the connection", res, err)
		}
		_, _ = io.ReadAll(res.Body)
	}
}

// TestUploadToAnInstanceThatIsGone: a client that pauses amid its body is answered.
func TestUploadToAnInstanceThatIsGone(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.host.script(says(boot3(1)))
	got := make(chan struct{}, 1)
	l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 4))
		got <- struct{}{}
		_, _ = io.ReadAll(r.Body)
	}))
	c := l.raw(80, netip.Addr{})
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nsome")
	<-got
	l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3, Boot: 1, Gone: true})
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != 502 {
		t.Errorf("got %+v, %v; want a 502", res, err)
	}
}

// TestRefusalsPassNginx: behind nginx's default proxy_pass, which asks for the end of the
// connection, every refusal arrives as what it is.
func TestRefusalsPassNginx(t *testing.T) {
	l := refusingLab(t)
	at := nginx(t, fmt.Sprintf("server { listen 127.0.0.1:%%d; location / { proxy_pass http://%s; } }", l.at(80))).at
	var wg sync.WaitGroup
	for _, r := range refusals[:3] {
		for _, size := range []int{2 << 10, 200 << 10, 900 << 10} {
			for worker := range 4 {
				wg.Go(func() {
					for n := range 14 {
						path := strings.Fields(r.head)[1]
						res, err := client().Post("http://"+at+path, "text/plain", bytes.NewReader(make([]byte, size)))
						if err != nil {
							t.Errorf("%s, %d bytes: %v", path, size, err)
							continue
						}
						_ = res.Body.Close()
						if res.StatusCode != r.status {
							t.Errorf("%s, %d bytes, try %d of %d: %d, want %d", path, size, n, worker, res.StatusCode, r.status)
						}
					}
				})
			}
		}
	}
	wg.Wait()
}
