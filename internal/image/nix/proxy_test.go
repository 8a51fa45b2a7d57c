package nix_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/nix"
)

// TestWayOut: a step with a fixed output reaches an address that is allowed through the proxy,
// and no other one.
func TestWayOut(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello from outside\n")
			_ = c.Close()
		}
	}()
	defer func() {
		_ = l.Close()
		<-served
	}()
	dir := flake(t, "hostile")
	b, err := os.ReadFile(filepath.Join(dir, "flake.nix"))
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	text := strings.ReplaceAll(string(b), "169.254.169.254:443", l.Addr().String())
	write(t, filepath.Join(dir, "flake.nix"), strings.ReplaceAll(text, "127.0.0.1 1 ", "127.0.0.1 "+port+" "))
	build := func(o nix.Options, profile string) error {
		_, err := store(t, o).Build(t.Context(), image.Request{Ref: nix.Path + dir, Profile: profile}, nil)
		return err
	}
	if err := build(options(t), "network-fetch"); err == nil || !strings.Contains(err.Error(), "fetch has no network") {
		t.Errorf("it reached the host's network: %v", err)
	}
	if err := build(options(t), "private-fetch"); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("it reached a private address: %v", err)
	}
	var asked []string
	err = build(options(t).Allowing(func(ip netip.Addr, port uint16) error {
		asked = append(asked, netip.AddrPortFrom(ip, port).String())
		return nil
	}), "private-fetch")
	if err == nil || !strings.Contains(err.Error(), "hello from outside") || len(asked) != 1 || asked[0] != l.Addr().String() {
		t.Errorf("%v, and asked for %v; want what the server says", err, asked)
	}
}

// pipes is a listener whose connections are pipes in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error {
	close(p)
	return nil
}

func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestSilentConnections: what runs in a cage holds few files of the agent with connections on
// which it says nothing, and not for long.
func TestSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := make(pipes)
		stop := nix.ServeProxy(ctx, l, nil)
		closed := make(chan int, 3*nix.MaxWaiting)
		for n := range 3 * nix.MaxWaiting {
			ours, theirs := net.Pipe()
			defer ours.Close()
			l <- theirs
			go func() {
				_, _ = ours.Read(make([]byte, 1))
				closed <- n
			}()
		}
		synctest.Wait()
		if len(closed) != 2*nix.MaxWaiting {
			t.Errorf("%d of %d silent connections were closed, want all but %d", len(closed), 3*nix.MaxWaiting, nix.MaxWaiting)
		}
		time.Sleep(nix.HeadTimeout + time.Second)
		synctest.Wait()
		if len(closed) != 3*nix.MaxWaiting {
			t.Errorf("%d of %d connections were closed after %s of silence", len(closed), 3*nix.MaxWaiting, nix.HeadTimeout)
		}
		cancel()
		stop()
	})
}

// TestOneRequest: a connection has one request, and what is sent right behind a CONNECT arrives.
func TestOneRequest(t *testing.T) {
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		c, err := back.Accept()
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		_, _ = io.WriteString(c, line)
		_ = c.Close()
	}()
	ctx, cancel := context.WithCancel(t.Context())
	stop := nix.ServeProxy(ctx, front, func(netip.Addr, uint16) error { return nil })
	defer func() {
		cancel()
		stop()
		_ = back.Close()
		<-echoed
	}()
	for request, want := range map[string]string{
		"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n":           "Connection: close",
		fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\nearly\n", back.Addr()): "early\n",
	} {
		c, err := net.Dial("tcp", front.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c) // until the other side closes it
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
		_ = c.Close()
	}
}
