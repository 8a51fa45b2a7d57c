package agent_test

import (
	"crypto/rand"
	"slices"
	"sync"
	"testing"

	"mvm"
)

// sameIDs gives the random bytes of an id a second time, once for each call of again.
type sameIDs struct {
	mu     sync.Mutex
	last   [4]byte
	repeat int
}

func (s *sameIDs) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repeat++
}

func (s *sameIDs) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) != len(s.last) {
		return rand.Read(p)
	}
	if s.repeat == 0 {
		_, _ = rand.Read(s.last[:])
	} else {
		s.repeat--
	}
	return copy(p, s.last[:]), nil
}

// TestIDsAreTakenOnce: where random bytes repeat, no instance, build or snapshot gets the
// id of another one.
func TestIDsAreTakenOnce(t *testing.T) {
	ids := &sameIDs{}
	d := &damaged{host: newHost(t)}
	d.rand = ids
	d.opt.Fail = d.failBad
	d.start()

	i := d.plain()
	ids.again()
	other, err := d.a.CreateInstance(ctx(t), "acme", "plain", "")
	if err != nil || other.ID == i.ID || other.UID == i.UID {
		t.Errorf("a second instance: %s of user %d, %v; the first is %s of user %d", other.ID, other.UID, err, i.ID, i.UID)
	}
	if got := d.get(i.ID); got.State != mvm.StateRunning || got.UID != i.UID {
		t.Errorf("the first instance became %+v", got)
	}

	for range 2 {
		d.change("plain", func(s *mvm.PoolSpec) { s.Flake += "x" })
		if _, err := d.a.BuildPool(ctx(t), "acme", "plain", nil); err != nil {
			t.Fatal(err)
		}
		ids.again()
	}
	p, err := d.a.Pool(ctx(t), "acme", "plain")
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, b := range p.Builds {
		if slices.Contains(seen, b.ID) {
			t.Errorf("two builds have the id %s: %+v", b.ID, p.Builds)
		}
		seen = append(seen, b.ID)
	}

	first := d.spoil(i.ID)
	ids.again()
	d.do(i.ID, mvm.OpSleep)
	got := d.get(i.ID)
	if got.Snapshot == nil || got.Snapshot.ID == first.Snapshot.ID {
		t.Errorf("the next snapshot is %+v, the one that was set aside is %s", got.Snapshot, first.Snapshot.ID)
	}
}
