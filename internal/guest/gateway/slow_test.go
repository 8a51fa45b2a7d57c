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

// TestBodyThatStops: a client that sends no more of its body is told so, and its instance is
// rid of the request.
func TestBodyThatStops(t *testing.T) {
	l := newLab(t, gateway.Limits{Body: 100 * time.Millisecond}, webRoute("web", 80, "/", anyOne))
	ended := make(chan error, 1)
	l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		ended <- err
	}))
	for _, begin := range []string{"Content-Length: 10\r\n\r\nsome", "Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n", "Content-Length: 10\r\n\r\n"} {
		c := l.raw(80, netip.Addr{})
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\n%s", begin)
		in := bufio.NewReader(c)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusRequestTimeout || !res.Close {
			t.Fatalf("%q: got %+v, %v; want a 408 that ends the connection", begin, res, err)
		}
		if text, _ := io.ReadAll(res.Body); !strings.Contains(string(text), "body") {
			t.Errorf("%q: the client is told %q", begin, text)
		}
		if err := <-ended; err == nil {
			t.Errorf("%q: the instance takes the body for a whole one", begin)
		}
		_ = c.Close()
	}
	eventually(t, "nothing is under way", func() bool { return l.router.Active() == 0 })
}

// TestSlowBody: a body may take longer than that, while more of it comes.
func TestSlowBody(t *testing.T) {
	const limit, tries = 400 * time.Millisecond, 20
	l := newLab(t, gateway.Limits{Body: limit}, webRoute("web", 80, "/", anyOne))
	l.instance(ip3, named("three"))
	for range tries {
		c := l.raw(80, netip.Addr{})
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 24\r\n\r\n")
		slow := false
		for range 24 {
			began := time.Now()
			time.Sleep(limit / 8)
			_, _ = io.WriteString(c, "x")
			slow = slow || time.Since(began) > limit/2
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if slow {
			continue
		}
		if err != nil || res.StatusCode != 200 {
			t.Errorf("got %+v, %v; want an answer", res, err)
		}
		return
	}
	t.Fatalf("this machine stood still in each of %d tries", tries)
}

// endless is an instance that answers for as long as it can, and says when it begins and when
// it can't any more.
func (l *lab) endless() (began, ended chan struct{}) {
	began, ended = make(chan struct{}, 50), make(chan struct{}, 50)
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		for part := make([]byte, 64<<10); ; {
			if _, err := w.Write(part); err != nil || r.Context().Err() != nil {
				ended <- struct{}{}
				return
			}
		}
	}))
	return began, ended
}

// deaf asks on a connection with small buffers, and reads nothing.
func (l *lab) deaf() net.Conn {
	c := l.raw(80, netip.Addr{})
	if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		l.t.Fatal(err)
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	return c
}

// TestClientThatTakesNothing: its answer ends, and its instance is rid of the request; sooner
// where it has ended its own side.
func TestClientThatTakesNothing(t *testing.T) {
	for _, ends := range []bool{false, true} {
		lim := gateway.Limits{Send: 100 * time.Millisecond}
		if ends {
			lim = gateway.Limits{Send: time.Hour, Linger: 100 * time.Millisecond, Watch: time.Millisecond, Late: time.Millisecond}
		}
		l := newLab(t, lim, webRoute("web", 80, "/", anyOne))
		began, ended := l.endless()
		c := l.deaf()
		<-began // a client that ends sooner has nothing asked
		if ends {
			_ = c.(*net.TCPConn).CloseWrite()
		}
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatalf("client has ended its side %v: the instance still answers", ends)
		}
		eventually(t, "nothing is under way", func() bool { return l.router.Active() == 0 })
		if ends {
			continue
		}
		if _, err := io.Copy(io.Discard, c); err == nil || isTimeout(err) {
			t.Errorf("the client's connection ends with %v, want a reset", err)
		}
	}
}

// TestClientThatTakesLittle: an answer may take longer than that, while the client takes some
// of it.
func TestClientThatTakesLittle(t *testing.T) {
	const limit, tries = 400 * time.Millisecond, 20
	l := newLab(t, gateway.Limits{Send: limit}, webRoute("web", 80, "/", anyOne))
	l.endless()
	var last error // a machine that stands still for the limit cuts one off, too, but not each
	for range tries {
		err, slow := takeLittle(l, limit)
		if err == nil && !slow {
			return
		}
		if err != nil {
			last = err
		}
	}
	t.Fatalf("cut off amid the answer, or this machine stood still, in each of %d tries: %v", tries, last)
}

// takeLittle reads some of an answer again and again for longer than the limit, and says whether
// it was too slow for that.
func takeLittle(l *lab, limit time.Duration) (err error, slow bool) {
	c := l.raw(80, netip.Addr{})
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	part := make([]byte, 1<<20)
	for began, last := time.Now(), time.Now(); time.Since(began) < 3*limit; last = time.Now() {
		if _, err := io.ReadFull(c, part); err != nil {
			return err, time.Since(last) > limit/2
		}
		if time.Since(last) > limit/2 {
			return nil, true
		}
		time.Sleep(limit / 8)
	}
	return nil, false
}

// TestAnswerInPlaceOfTheWord: a client that waits for the word to send its body, and gets an
// answer instead, may go on either way. So the answer says that the connection ends.
func TestAnswerInPlaceOfTheWord(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	l.spoken(func(c net.Conn, _ *bufio.Reader, _ string) {
		_, _ = io.WriteString(c, length("no"))
	})
	for _, framing := range []string{"Content-Length: 5", "Transfer-Encoding: chunked"} {
		c := l.raw(80, netip.Addr{})
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n%s\r\n\r\n", framing)
		in := bufio.NewReader(c)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != 200 || !res.Close {
			t.Fatalf("%s: got %+v, %v; want an answer that ends the connection", framing, res, err)
		}
		_, _ = io.ReadAll(res.Body)
		_ = c.(*net.TCPConn).CloseWrite()
		if _, err := in.ReadByte(); err != io.EOF {
			t.Errorf("%s: after the answer: %v, want the end", framing, err)
		}
	}
}
