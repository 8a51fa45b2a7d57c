package store_test

import (
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/store"
)

func TestAStateOpensWithItsOwnMasterKeyOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	open := func(o store.Options) (*store.Store, error) { return store.OpenWith(path, o) }
	must := func(o store.Options) *store.Store {
		t.Helper()
		s, err := open(o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	shut := func(s *store.Store) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	shut(must(store.Options{})) // an older mvm knew of none
	s := must(store.Options{KeyID: "0a"})
	update(t, s, func(tx *store.Tx) error {
		if err := addTenant(tx, "acme"); err != nil {
			return err
		}
		n, err := tx.Tenant("acme")
		if err != nil {
			return err
		}
		n.SecretsGeneration, n.SecretNames = 4, []string{"token"}
		if err := tx.PutTenant(n); err != nil {
			return err
		}
		return tx.PutSecrets("acme", []byte("sealed"))
	})
	if err := s.Update(func(tx *store.Tx) error { return tx.PutMeta("master_key_id", "0b") }); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("got %v, want the name to be the store's own", err)
	}
	shut(s)
	for _, o := range []store.Options{{KeyID: "0b"}, {KeyID: "0b", ReplacesKey: "0c"}} {
		if _, err := open(o); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "encrypted with master key 0a, and this host has 0b") {
			t.Errorf("got %v, want a refusal that names both keys", err)
		}
	}
	s = must(store.Options{KeyID: "0a", ReplacesKey: "0a"})
	view(t, s, func(tx *store.Tx) error {
		if string(tx.Secrets("acme")) != "sealed" {
			t.Error("a key that does not change took the secrets")
		}
		return nil
	})
	shut(s)
	s = must(store.Options{KeyID: "0b", ReplacesKey: "0a"})
	view(t, s, func(tx *store.Tx) error {
		n, err := tx.Tenant("acme")
		if len(tx.Secrets("acme")) != 0 || n.SecretsGeneration != 5 || len(n.SecretNames) != 0 {
			t.Errorf("got %q and %+v, want the secrets given up in a new generation", tx.Secrets("acme"), n)
		}
		return err
	})
	shut(s)
	if _, err := open(store.Options{KeyID: "0a"}); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("got %v, want the key that was given up refused", err)
	}
}
