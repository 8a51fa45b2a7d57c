package ratetable_test

import (
	"mvm/internal/ratetable"
	"net/netip"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	table := ratetable.Table{Burst: 3, Every: 10 * time.Second, Max: 100}
	now := time.Unix(1000, 0)
	allowed := func(addr string) (n int) {
		for {
			wait, ok := table.Allow(netip.MustParseAddr(addr), now)
			if !ok {
				if wait <= 0 || wait > 10*time.Second {
					t.Errorf("%s has to wait %s", addr, wait)
				}
				return n
			}
			n++
		}
	}
	for _, c := range []struct {
		addr string
		want int
	}{{"192.0.2.1", 3}, {"192.0.2.1", 0}, {"::ffff:192.0.2.1", 0}, {"192.0.2.2", 3}, {"2001:db8::1", 3}, {"2001:db8::2", 0}, {"2001:db8:0:1::1", 3}} {
		if got := allowed(c.addr); got != c.want {
			t.Errorf("%s is allowed %d, want %d", c.addr, got, c.want)
		}
	}
	now = now.Add(20 * time.Second)
	if got := allowed("192.0.2.1"); got != 2 {
		t.Errorf("after 20 s %d are allowed, want 2", got)
	}
	// Sources without number get no more than the table holds, and one allowance.
	table, total := ratetable.Table{Burst: 3, Every: 10 * time.Second, Max: 100}, 0
	for n := range 10_000 {
		for {
			if _, ok := table.Allow(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), now); !ok {
				break
			}
			total++
		}
	}
	if total != 303 {
		t.Errorf("10,000 sources were allowed %d, want 303", total)
	}
	now = now.Add(time.Minute)
	if got := allowed("192.0.2.9"); got != 3 {
		t.Errorf("after a minute a new source is allowed %d, want 3", got)
	}
}

func TestTableIsIdle(t *testing.T) {
	table := ratetable.Table{Burst: 2, Every: 10 * time.Second, Max: 10}
	now := time.Unix(1000, 0)
	if !table.Idle(now) {
		t.Error("a new table is not idle")
	}
	table.Allow(netip.MustParseAddr("192.0.2.1"), now)
	for after, want := range map[time.Duration]bool{0: false, 9 * time.Second: false, 10 * time.Second: true} {
		if got := table.Idle(now.Add(after)); got != want {
			t.Errorf("idle after %s: %v", after, got)
		}
	}
}
