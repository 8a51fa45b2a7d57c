package agent_test

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/sys"
)

// Guests have the resolvers that the host has now: running ones are told of a change,
// sleepers when they wake, and a moment without any takes none away.
func TestGuestsFollowTheHostsResolvers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		home, cafe := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		var now atomic.Pointer[[]netip.Addr]
		move := func(to ...netip.Addr) { now.Store(&to) }
		move(home)
		h := newHost(t)
		h.every = 30 * time.Second
		h.dns = func() []netip.Addr { return *now.Load() }
		h.listen = func(*sys.Folder, string) (net.Listener, error) { return newDeafListener(), nil }
		h.start()
		defer h.stop()
		h.makePool(desired(worker("workers"), 1, 0, 1))
		settled(time.Minute)
		var awake, asleep mvm.Instance
		for _, i := range h.all("workers") {
			if i.State == mvm.StateRunning {
				awake = i
			} else {
				asleep = i
			}
		}
		want := func(i mvm.Instance, what string, want ...netip.Addr) {
			t.Helper()
			if got := guestOf(h, i).Net.DNS; !slices.Equal(got, want) {
				t.Errorf("%s: the guest has %v, want %v", what, got, want)
			}
		}
		want(awake, "at first", home)
		move(cafe, home)
		settled(15 * time.Second)
		want(awake, "moved", cafe, home)
		move()
		settled(15 * time.Second)
		want(awake, "between two networks", cafe, home)
		h.do(asleep.ID, mvm.OpWake)
		want(asleep, "woken", cafe, home)

		h.stop()
		move(home)
		h.start()
		settled(15 * time.Second)
		for _, i := range h.all("workers") {
			if i.State == mvm.StateRunning {
				want(i, "moved while no agent ran", home)
			}
		}
	})
}
