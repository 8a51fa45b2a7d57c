package pki_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"mvm/internal/pki"
	"mvm/internal/testenv"
)

// A CA's key that is another user's alone is as good as elsewhere: the agent says that
// it can't renew by itself. One that it can read is told of.
func TestACAKeyThatTheAgentCannotRead(t *testing.T) {
	path := t.TempDir()
	d := pki.At(path, "mvm")
	now := time.Now()
	if _, err := d.Init(now); err != nil {
		t.Fatal(err)
	}
	if _, err := d.RotateNode("n1", []string{"localhost"}, time.Hour, now); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(path, "ca.key")
	testenv.WithoutRights(t, func() {
		if s, err := d.Status(now); err != nil || !s.RenewsItself || !s.CAKeyHere {
			t.Errorf("its own key: %+v, %v", s, err)
		}
	})
	if err := os.Chown(key, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	testenv.WithoutRights(t, func() {
		if s, err := d.Status(now); err != nil || s.RenewsItself || s.CAKeyHere || s.Problem != "" {
			t.Errorf("another user's key: %+v, %v; want that it does not renew", s, err)
		}
	})
}
