package snapshot_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/atrest"
	"mvm/internal/secrets"
	"mvm/internal/snapshot"
	"mvm/internal/tenantkey"
)

var here = snapshot.HostOf(driver.Info{Name: "qemu", Version: "7.2", Digest: "d", Machine: "q35"})

func instance() mvm.Instance {
	return mvm.Instance{ID: "i-00000001", Image: "sha256:a", DiskGeneration: 3, Res: mvm.Resources{MemMiB: 256, DataDiskMiB: 16}}
}

// TestFit: a snapshot fits as it was described, and no more when one of the things has
// changed that it belongs to.
func TestFit(t *testing.T) {
	var ref mvm.SnapshotRef
	here.Describe(&ref, instance(), time.Unix(1, 0), "boot")
	if err := here.Misfit(ref, instance()); err != nil || ref.BootID != "boot" || !ref.Taken.Equal(time.Unix(1, 0)) {
		t.Errorf("just taken: %v, %+v", err, ref)
	}
	for name, c := range map[string]struct {
		change func(s *mvm.SnapshotRef, i *mvm.Instance, h *snapshot.Host)
		want   string
	}{
		"another image":   {func(_ *mvm.SnapshotRef, i *mvm.Instance, _ *snapshot.Host) { i.Image = "sha256:b" }, "image"},
		"another VMM":     {func(_ *mvm.SnapshotRef, _ *mvm.Instance, h *snapshot.Host) { h.VMM += "x" }, "VMM"},
		"another machine": {func(_ *mvm.SnapshotRef, _ *mvm.Instance, h *snapshot.Host) { h.Machine = "microvm" }, "machine"},
		"used":            {func(s *mvm.SnapshotRef, _ *mvm.Instance, _ *snapshot.Host) { s.Consumed = true }, "has already used it"},
		"disks":           {func(_ *mvm.SnapshotRef, i *mvm.Instance, _ *snapshot.Host) { i.DiskGeneration++ }, "disks have changed"},
		"memory":          {func(_ *mvm.SnapshotRef, i *mvm.Instance, _ *snapshot.Host) { i.Res.MemMiB *= 2 }, "memory"},
	} {
		s, i, h := ref, instance(), here
		c.change(&s, &i, &h)
		if err := h.Misfit(s, i); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	aside := mvm.SetAside{Snapshot: ref, DataDiskMiB: 16}
	later := instance()
	later.DiskGeneration++
	if why := here.AsideMisfit(aside, later); !strings.Contains(why, "disks have changed") {
		t.Errorf("set aside, and the data disk went on: %q", why)
	}
	later.Res.DataDiskMiB, aside.DataDiskMiB = 0, 0
	if why := here.AsideMisfit(aside, later); why != "" || snapshot.Again(aside, later).DiskGeneration != later.DiskGeneration {
		t.Errorf("set aside, without a data disk: %q", why)
	}
	if why := here.AsideMisfit(aside, instance()); !strings.Contains(why, "data disk was of 0 MiB") {
		t.Errorf("set aside, before there was a data disk: %q", why)
	}
}

// files is an instance's folder with a snapshot in it that an older version left.
func files(t *testing.T) snapshot.Files {
	t.Helper()
	f := folder(t)
	must(t, os.WriteFile(f.Memory(), []byte("memory"), 0o600))
	must(t, f.Write(mvm.SnapshotRef{ID: "s-00000001"}, func(s driver.Snapshot) error { return os.WriteFile(s.State, []byte("state"), 0o600) }))
	return f
}

// folder is an instance's folder.
func folder(t *testing.T) snapshot.Files {
	t.Helper()
	master, err := secrets.NewKey(make([]byte, secrets.KeySize))
	must(t, err)
	key, _, err := master.NewTenantKey("acme")
	must(t, err)
	f := snapshot.Files{Instance: "i-00000001", Tenant: "acme", Dir: filepath.Join(t.TempDir(), "i-00000001"), UID: 1000,
		Shared: &snapshot.Shared{Key: func(string) (*tenantkey.Key, error) { return key, nil }, Segments: atrest.Segments{}}}
	must(t, os.Mkdir(f.Dir, 0o700))
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree lists the files below the instance's folder.
func tree(t *testing.T, f snapshot.Files) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(f.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(f.Dir, path)
			names = append(names, rel)
		}
		return err
	}))
	return names
}

func wantTree(t *testing.T, when string, f snapshot.Files, want ...string) {
	t.Helper()
	if got := tree(t, f); !slices.Equal(got, want) {
		t.Errorf("%s there is %q, want %q", when, got, want)
	}
}

// TestSetAsideAndBack: both parts of a snapshot move aside and back together, from
// wherever a crash has left them, and what is not there any more is told.
func TestSetAsideAndBack(t *testing.T) {
	f := files(t)
	if misfit, err := f.Missing(mvm.SnapshotRef{ID: "s-00000001"}); misfit != nil || err != nil {
		t.Errorf("a whole snapshot: %v, %v", misfit, err)
	}
	if misfit, err := f.Missing(mvm.SnapshotRef{ID: "s-00000002"}); !mvm.IsKind(misfit, mvm.KindState) || err != nil {
		t.Errorf("one that is not there: %v, %v", misfit, err)
	}
	for range 2 {
		must(t, f.SetAside("s-00000001"))
		wantTree(t, "set aside", f, "set-aside/s-00000001/memory", "set-aside/s-00000001/state")
	}
	must(t, f.BringBack("s-00000001"))
	wantTree(t, "brought back", f, "memory", "snapshots/s-00000001/state")
	must(t, os.MkdirAll(filepath.Join(f.Dir, "set-aside", "s-00000001"), 0o700))
	must(t, os.Rename(f.Memory(), filepath.Join(f.Dir, "set-aside", "s-00000001", "memory"))) // half of a move
	must(t, f.SetAside("s-00000001"))
	wantTree(t, "set aside after a crash", f, "set-aside/s-00000001/memory", "set-aside/s-00000001/state")
	must(t, os.Remove(filepath.Join(f.Dir, "set-aside", "s-00000001", "state")))
	if err := f.BringBack("s-00000001"); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "a part of it is lost") {
		t.Errorf("bring back half of it: %v", err)
	}
	wantTree(t, "after that", f, "set-aside/s-00000001/memory")
	must(t, f.RemoveAside("s-00000001"))
	must(t, f.RemoveAside("s-00000001"))
	wantTree(t, "removed", f)
}

// TestWhatIsKept: a sweep keeps what the record names, and removals can run twice.
func TestWhatIsKept(t *testing.T) {
	f := files(t)
	write := func(s driver.Snapshot) error { return os.WriteFile(s.State, []byte("x"), 0o600) }
	must(t, f.Write(mvm.SnapshotRef{ID: "s-00000002"}, write))
	if n, err := f.Bytes("s-00000002"); err != nil || n == 0 {
		t.Errorf("bytes: %d, %v", n, err)
	}
	must(t, f.KeepOnly("s-00000002"))
	wantTree(t, "kept one", f, "memory", "snapshots/s-00000002/state")
	must(t, f.SetAside("s-00000002"))
	removed, err := f.KeepAside(mvm.Instance{ID: f.Instance, SetAside: []mvm.SetAside{{Snapshot: mvm.SnapshotRef{ID: "s-00000002"}}}})
	if err != nil || len(removed) > 0 {
		t.Errorf("sweep of what is on record removed %q, %v", removed, err)
	}
	removed, err = f.KeepAside(mvm.Instance{ID: f.Instance})
	if err != nil || !slices.Equal(removed, []string{"s-00000002"}) {
		t.Errorf("sweep of what is not on record removed %q, %v", removed, err)
	}
	f = files(t)
	for range 2 {
		must(t, f.Discard())
		wantTree(t, "discarded", f)
		must(t, f.Remove("s-00000001"))
		must(t, f.DropMemory())
	}
	if n, err := f.Bytes("s-00000001"); err != nil || n != 0 {
		t.Errorf("bytes of nothing: %d, %v", n, err)
	}
	gone := f
	gone.Dir = filepath.Join(f.Dir, "none")
	for name, err := range map[string]error{"discard": gone.Discard(), "keep": gone.KeepOnly(""), "remove": gone.Remove("s-00000001")} {
		if err != nil {
			t.Errorf("%s without a folder: %v", name, err)
		}
	}
}
