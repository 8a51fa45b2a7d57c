package store_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/store"
)

func fleetOf(list []mvm.FleetCount) map[string][2]int64 {
	out := map[string][2]int64{}
	for _, c := range list {
		out[fmt.Sprintf("%s/%s %s", c.Tenant, c.Pool, c.State)] = [2]int64{int64(c.Instances), c.SnapshotBytes}
	}
	return out
}

// counted is what a full look at the instances gives.
func counted(t *testing.T, s *store.Store) map[string][2]int64 {
	t.Helper()
	out := map[string][2]int64{}
	view(t, s, func(tx *store.Tx) error {
		all, err := tx.Instances("", "")
		for _, i := range all {
			k := fmt.Sprintf("%s/%s %s", i.Tenant, i.Pool, i.State)
			n := out[k]
			n[0]++
			if i.Snapshot != nil {
				n[1] += i.Snapshot.Bytes
			}
			out[k] = n
		}
		return err
	})
	return out
}

// The counts are those of the instances after any changes, failed ones too, and after
// the file was closed and opened.
func TestFleetIsWhatTheInstancesAre(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	update(t, s, func(tx *store.Tx) error { return errors.Join(addTenant(tx, "acme"), addTenant(tx, "other")) })
	r := rand.New(rand.NewPCG(1, 2))
	states := []mvm.State{mvm.StateReady, mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping, mvm.StateStopped}
	gone := errors.New("given up")
	for n := range 400 {
		fail := r.IntN(5) == 0
		err := s.Update(func(tx *store.Tx) error {
			for range 1 + r.IntN(3) {
				i := instance([]string{"acme", "other"}[r.IntN(2)], r.IntN(20), "")
				if r.IntN(4) == 0 {
					if err := tx.DeleteInstance(i.ID); err != nil {
						return err
					}
					continue
				}
				i.State = states[r.IntN(len(states))]
				if i.State == mvm.StateSleeping {
					i.Snapshot = &mvm.SnapshotRef{Bytes: int64(r.IntN(1000))}
				}
				if old, err := tx.Instance(i.ID); err == nil {
					i.Tenant, i.Pool = old.Tenant, old.Pool
				}
				if err := tx.PutInstance(i); err != nil {
					return err
				}
			}
			if fail {
				return gone
			}
			return nil
		})
		if err != nil && !errors.Is(err, gone) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(counted(t, s), fleetOf(s.Fleet())); diff != "" {
			t.Fatalf("after change %d (-instances +counts):\n%s", n, diff)
		}
	}
	before := maps.Clone(fleetOf(s.Fleet()))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(path); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, fleetOf(s.Fleet())); diff != "" {
		t.Errorf("opened again (-before +after):\n%s", diff)
	}
}

// BenchmarkFleet is what the counts cost with 10,000 instances.
func BenchmarkFleet(b *testing.B) {
	s := openStore(b, store.Options{})
	update(b, s, func(tx *store.Tx) error {
		if err := addTenant(tx, "acme"); err != nil {
			return err
		}
		for n := range 10_000 {
			if err := tx.PutInstance(instance("acme", n, "")); err != nil {
				return err
			}
		}
		return nil
	})
	for b.Loop() {
		if len(s.Fleet()) != 1 {
			b.Fatal("the instances are in more than one state")
		}
	}
}
