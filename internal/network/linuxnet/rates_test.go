package linuxnet_test

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mvm/internal/network"
	"mvm/internal/network/linuxnet"
)

// A guest that floods gets through what its rate allows and no more, which is told; its
// neighbour notices nothing.
func TestRates(t *testing.T) {
	t.Parallel()
	const rate, size = 100, 4000
	for name, c := range map[string]struct {
		rates linuxnet.Rates
		bytes int // of each datagram
	}{
		"frames": {linuxnet.Rates{Frames: rate, Bytes: 1 << 30}, 10},
		"bytes":  {linuxnet.Rates{Frames: 1 << 20, Bytes: rate * 1042}, 1000}, // and 42 of headers
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "0", linuxnet.Options{Rates: c.rates})
			a3, a4, z3 := w.guest("a3"), w.guest("a4"), w.guest("z3")
			w.echo(w.outside, ":443")
			var got atomic.Int64
			var in net.PacketConn
			var err error
			a4.do(func() { in, err = net.ListenPacket("udp4", ":9000") })
			if err != nil {
				t.Fatal(err)
			}
			w.wg.Go(func() {
				b := make([]byte, 2000)
				for {
					if _, _, err := in.ReadFrom(b); err != nil {
						return
					}
					got.Add(1)
				}
			})
			var out net.Conn
			a3.do(func() { out, err = net.Dial("udp4", a4.ip+":9000") })
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			defer in.Close()
			begun := time.Now()
			for n := range size {
				_, _ = out.Write(make([]byte, c.bytes))
				if n%100 == 0 {
					time.Sleep(time.Millisecond) // or the guest's own queue drops them
				}
			}
			if err := talk(z3.testNS, "192.0.2.2:443", 1600); err != nil {
				t.Errorf("the neighbour: %v", err)
			}
			eventually(5*time.Second, func() bool { return got.Load() >= rate })
			all, took := got.Load(), time.Since(begun)
			if most := int64(1.5*rate*took.Seconds()) + 2*rate; all < rate/2 || all > most {
				t.Errorf("%d of %d datagrams arrived in %v, want at least %d and at most %d", all, size, took, rate/2, most)
			}
			found, err := w.net.Verify(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			of := w.cfg.Tenants[0]
			drops, err := w.net.Dropped(t.Context(), of.ID, of.Instances[0].ID)
			if err != nil || drops.Sent == 0 || drops.Sent > size {
				t.Errorf("dropped of a3: %+v, %v; want some of %d", drops, err, size)
			}
			quiet := w.cfg.Tenants[len(w.cfg.Tenants)-1]
			for _, z := range w.cfg.Tenants {
				if z.ID == "zeta" {
					quiet = z
				}
			}
			if drops, err := w.net.Dropped(t.Context(), quiet.ID, quiet.Instances[0].ID); err != nil || drops != (network.Drops{}) {
				t.Errorf("dropped of the neighbour: %+v, %v; want none", drops, err)
			}
			told := ""
			for _, f := range found {
				if strings.Contains(f.What, "more than its rate") {
					told += f.Where + " " + f.What + "\n"
				}
			}
			if !strings.Contains(told, "the guest sent more") || strings.Contains(told, "zeta/") {
				t.Errorf("net verify tells of rates %q", told)
			}
		})
	}
}
