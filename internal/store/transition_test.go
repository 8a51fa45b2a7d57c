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

// A boot whose services became ready after whoever waited for them had given up is on record as
// one that took until then. That something else came later, or that they were ready, changes
// nothing.
func TestEndBoot(t *testing.T) {
	s := openStore(t, store.Options{})
	i := instance("acme", 1, "")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	boot := mvm.Transition{Op: mvm.OpStart, To: mvm.StateRunning, Kind: "cold", Started: at, Took: time.Minute, Stages: []mvm.Stage{{Name: "gate", Took: time.Minute}}}
	gaveUp := boot
	gaveUp.Took, gaveUp.Error = 16*time.Minute, "services were not ready within 15m0s"
	again := mvm.Transition{Op: mvm.OpStart, To: mvm.StateRunning, Started: at.Add(17 * time.Minute), Took: 15 * time.Minute, Error: "services were not ready within 15m0s"}
	end := func(minute int) (last mvm.Transition, all []mvm.Transition) {
		t.Helper()
		update(t, s, func(tx *store.Tx) error {
			now, err := tx.Instance(i.ID)
			return errors.Join(err, tx.EndBoot(&now, at.Add(time.Duration(minute)*time.Minute)), tx.PutInstance(now))
		})
		view(t, s, func(tx *store.Tx) error {
			now, err := tx.Instance(i.ID)
			var listErr error
			all, listErr = tx.Transitions(i.ID)
			last = *now.Last
			return errors.Join(err, listErr)
		})
		return last, all
	}
	put := func(last mvm.Transition) {
		t.Helper()
		i.Last = &last
		update(t, s, func(tx *store.Tx) error { return tx.PutInstance(i) })
	}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(addTenant(tx, "acme"), tx.PutInstance(i), tx.PutTransition(i.ID, boot), tx.PutTransition(i.ID, gaveUp), tx.PutTransition(i.ID, again))
	})
	put(boot)
	for _, minute := range []int{40, 50} {
		last, all := end(minute)
		if len(all) != 2 || !store.Booted(all[0]) || all[0].Took != 40*time.Minute || all[0].Error != gaveUp.Error || store.Booted(all[1]) {
			t.Errorf("ready after 40 minutes, the record is %+v", all)
		}
		if stages := last.Stages; last.Took != 40*time.Minute || len(stages) != 2 || stages[1] != (mvm.Stage{Name: "ready", Took: 39 * time.Minute}) {
			t.Errorf("ready after 40 minutes, the last is %+v", last)
		}
	}
	wake := mvm.Transition{Op: mvm.OpWake, To: mvm.StateRunning, Kind: "warm", Started: at.Add(2 * time.Hour), Took: time.Second}
	put(wake)
	if last, all := end(150); last.Took != time.Second || all[0].Took != 40*time.Minute {
		t.Errorf("after a wake the last is %+v of %+v", last, all)
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
