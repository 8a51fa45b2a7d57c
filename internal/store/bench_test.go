package store_test

import (
	"testing"

	"mvm"
	"mvm/internal/store"
)

// BenchmarkUpdate is the hot path: the intent of an operation on one of 1000
// instances made durable, with its event.
func BenchmarkUpdate(b *testing.B) {
	s := openStore(b, store.Options{})
	update(b, s, func(tx *store.Tx) error {
		if err := addTenant(tx, "acme"); err != nil {
			return err
		}
		for n := range 1000 {
			if err := tx.PutInstance(instance("acme", n, "")); err != nil {
				return err
			}
		}
		return nil
	})
	b.ResetTimer()
	for n := range b.N {
		v := instance("acme", n%1000, "")
		update(b, s, func(tx *store.Tx) error {
			v.Op = &mvm.Op{Kind: mvm.OpWake, By: mvm.ParseAsker("policy")}
			if _, err := tx.AppendEvent(mvm.Event{Action: mvm.InstanceWoken, Instance: v.ID}); err != nil {
				return err
			}
			return tx.PutInstance(v)
		})
	}
}

// BenchmarkInstanceByKey is what every request with a key costs.
func BenchmarkInstanceByKey(b *testing.B) {
	s := openStore(b, store.Options{})
	update(b, s, func(tx *store.Tx) error {
		if err := addTenant(tx, "acme"); err != nil {
			return err
		}
		return tx.PutInstance(instance("acme", 1, "ann"))
	})
	for b.Loop() {
		view(b, s, func(tx *store.Tx) error {
			_, err := tx.InstanceByKey("acme", "workers", "ann")
			return err
		})
	}
}
