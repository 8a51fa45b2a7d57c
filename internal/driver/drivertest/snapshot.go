package drivertest

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"mvm/internal/driver"
	"mvm/internal/secrets"
	"mvm/internal/tenantkey"
)

// Snapshot is where a snapshot of the instance goes, sealed with the key of the tests' tenant.
// It makes the folders.
func Snapshot(t testing.TB, spec driver.Spec) driver.Snapshot { return SnapshotIn(t, spec.Dir, spec) }

// SnapshotIn is Snapshot, in another folder than the instance's.
func SnapshotIn(t testing.TB, dir string, spec driver.Spec) driver.Snapshot {
	t.Helper()
	snap := snapshotIn(dir, spec)
	for _, dir := range []string{filepath.Dir(snap.State), snap.Segments} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return snap
}

// snapshot is Snapshot, or one in the clear of a driver that knows no other.
func (s *suite) snapshot(t testing.TB, spec driver.Spec) driver.Snapshot {
	if s.Plain {
		return driver.Snapshot{State: filepath.Join(spec.Dir, "state")}
	}
	return Snapshot(t, spec)
}

// files are those of the snapshot that are there.
func (s *suite) files(t testing.TB, spec driver.Spec, snap driver.Snapshot) (out []string) {
	if !s.Plain {
		return SnapshotFiles(t, snap)
	}
	if _, err := os.Stat(snap.State); err != nil {
		return nil
	}
	out = []string{snap.State}
	for _, f := range []string{snap.Pages(), snap.Whole(), spec.Memory} {
		if _, err := os.Stat(f); err == nil {
			return append(out, f)
		}
	}
	return append(out, spec.Memory)
}

// SnapshotOf is what Snapshot has made, in another process.
func SnapshotOf(spec driver.Spec) driver.Snapshot { return snapshotIn(spec.Dir, spec) }

func snapshotIn(dir string, spec driver.Spec) driver.Snapshot {
	return driver.Snapshot{ID: spec.ID + "/s-00000001", State: filepath.Join(dir, "snapshot", "state"), Segments: filepath.Join(dir, "segments"), Key: key()}
}

// SnapshotFiles are the files of the snapshot that are there: map, device state and segments.
func SnapshotFiles(t testing.TB, snap driver.Snapshot) (out []string) {
	t.Helper()
	for _, pattern := range []string{filepath.Join(filepath.Dir(snap.State), "*"), filepath.Join(snap.Segments, "*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	return out
}

// storedKey is a tenant's key, sealed with a master key of zeros: processes of a test share it.
const storedKey = "01a3ef6fc6cc87991bc5e49e6fba851a524f36d203c72a405497d450e3deb563966ce970984f19607e796fa29d2cc3c588804495b0d600f6c9e041bc957f5247023a9325be"

// key is the key of the tests' tenant.
func key() *tenantkey.Key {
	sealed, err := hex.DecodeString(storedKey)
	var master *secrets.Key
	if err == nil {
		master, err = secrets.NewKey(make([]byte, secrets.KeySize))
	}
	var k *tenantkey.Key
	if err == nil {
		k, err = master.OpenTenantKey("acme", sealed)
	}
	if err != nil {
		panic(err)
	}
	return k
}

// otherKey is a key that seals nothing in the tests.
func otherKey(t testing.TB) *tenantkey.Key {
	t.Helper()
	master, err := secrets.NewKey(make([]byte, secrets.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := master.NewTenantKey("other")
	if err != nil {
		t.Fatal(err)
	}
	return k
}
