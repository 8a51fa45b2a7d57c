package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"mvm"
	"mvm/internal/audit"
	"mvm/internal/store"
)

// TestDamagedFile: a state file of which a part is missing or overwritten is told of, by
// whoever opens it, and never ends the process.
func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	s, err := store.OpenWith(path, sealed())
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Tx) error { return appendN(tx, 200) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	try := func(what string, content []byte, broken bool) {
		t.Helper()
		at := filepath.Join(dir, "copy.db")
		if err := os.WriteFile(at, content, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := store.VerifyFile(at, auditKey, audit.Mark{})
		if err != nil && !mvm.IsKind(err, mvm.KindInternal) || err == nil && r.Intact && broken {
			t.Errorf("%s: %v, %v; want it damaged", what, r.Intact, err)
		}
		if s, err := store.OpenWith(at, sealed()); err == nil {
			_ = s.Close()
		}
		if err := os.Remove(at); err != nil {
			t.Fatal(err)
		}
	}
	try("half of it", whole[:len(whole)/2], true)
	try("nothing", nil, true)
	try("one byte", whole[:1], true)
	for n := range len(whole) / page {
		try(fmt.Sprintf("%d pages of %d", n, len(whole)/page), whole[:n*page], n < 4)
		over := bytes.Clone(whole)
		clear(over[n*page : (n+1)*page])
		try(fmt.Sprintf("page %d overwritten with zeros", n), over, false)
		for k := range page {
			over[n*page+k] = byte(k*7 + n)
		}
		try(fmt.Sprintf("page %d overwritten with something", n), over, false)
	}
}
