package store_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"mvm"
	"mvm/internal/store"
)

func TestTransitionsAreBoundedAndGoWithTheInstance(t *testing.T) {
	s := openStore(t, store.Options{})
	id := instance("acme", 1, "").ID
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	update(t, s, func(tx *store.Tx) error {
		if err := tx.PutTransition(id, mvm.Transition{}); !mvm.IsKind(err, mvm.KindNotFound) {
			t.Errorf("of an instance that is not there: %v", err)
		}
		err := errors.Join(addTenant(tx, "acme"), tx.PutInstance(instance("acme", 1, "")))
		for n := range 40 {
			err = errors.Join(err, tx.PutTransition(id, mvm.Transition{Op: mvm.OpWake, Started: at.Add(time.Duration(n) * time.Minute)}))
		}
		// The same one again, with what was found out later.
		return errors.Join(err, tx.PutTransition(id, mvm.Transition{Op: mvm.OpWake, Started: at.Add(39 * time.Minute), Took: time.Second}))
	})
	view(t, s, func(tx *store.Tx) error {
		all, err := tx.Transitions(id)
		if len(all) != 16 || !all[0].Started.Equal(at.Add(24*time.Minute)) || all[15].Took != time.Second {
			t.Errorf("got %d, from %s to %+v", len(all), all[0].Started, all[len(all)-1])
		}
		return err
	})
	update(t, s, func(tx *store.Tx) error { return tx.DeleteInstance(id) })
	view(t, s, func(tx *store.Tx) error {
		all, err := tx.Transitions(id)
		if len(all) != 0 {
			t.Errorf("an instance that is gone left %d transitions", len(all))
		}
		return err
	})
}

// How long a boot took is known for as long as there was no other, however often the instance
// sleeps and wakes meanwhile. What is kept is no more for that.
func TestTheLastBootIsKept(t *testing.T) {
	s := openStore(t, store.Options{})
	id := instance("acme", 1, "").ID
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	boot := func(minute int, stage string) mvm.Transition {
		return mvm.Transition{Op: mvm.OpStart, To: mvm.StateRunning, Kind: "cold", Started: at.Add(time.Duration(minute) * time.Minute), Stages: []mvm.Stage{{Name: stage}}}
	}
	put := func(all ...mvm.Transition) (kept []mvm.Transition) {
		t.Helper()
		update(t, s, func(tx *store.Tx) (err error) {
			for _, tr := range all {
				err = errors.Join(err, tx.PutTransition(id, tr))
			}
			return err
		})
		view(t, s, func(tx *store.Tx) (err error) {
			kept, err = tx.Transitions(id)
			return err
		})
		return kept
	}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(addTenant(tx, "acme"), tx.PutInstance(instance("acme", 1, "")))
	})
	var wakes []mvm.Transition
	for n := range 40 {
		wakes = append(wakes, mvm.Transition{Op: mvm.OpWake, To: mvm.StateRunning, Kind: "warm", Started: at.Add(time.Duration(10+n) * time.Minute)})
	}
	kept := put(append([]mvm.Transition{boot(1, "ready"), boot(2, "ready"), boot(3, "gate")}, wakes...)...)
	if len(kept) != 16 || !store.Booted(kept[0]) || !kept[0].Started.Equal(at.Add(2*time.Minute)) || !kept[1].Started.Equal(at.Add(35*time.Minute)) {
		t.Errorf("kept %+v", kept)
	}
	next := wakes[39]
	next.Started = at.Add(51 * time.Minute)
	kept = put(boot(50, "gate"), boot(50, "ready"), next)
	if len(kept) != 16 || !kept[0].Started.Equal(at.Add(36*time.Minute)) || !store.Booted(kept[14]) {
		t.Errorf("after another boot: %+v", kept)
	}
}

// Migration 3 keeps what was known of each instance.
func TestMigration3KeepsTheLastTransition(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := store.OpenAt(path, store.Options{}, 2, false)
	if err != nil {
		t.Fatal(err)
	}
	with, without := instance("acme", 1, ""), instance("acme", 2, "")
	with.Last = &mvm.Transition{Op: mvm.OpSleep, By: mvm.ParseAsker("cli:root")}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(addTenant(tx, "acme"), tx.PutInstance(with), tx.PutInstance(without))
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	view(t, s, func(tx *store.Tx) error {
		one, err := tx.Transitions(with.ID)
		none, err2 := tx.Transitions(without.ID)
		if len(one) != 1 || one[0].By != mvm.ParseAsker("cli:root") || len(none) != 0 {
			t.Errorf("got %+v and %+v", one, none)
		}
		return errors.Join(err, err2, tx.Check())
	})
}
