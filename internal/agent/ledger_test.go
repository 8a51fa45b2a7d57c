package agent_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/agent"
	"mvm/internal/sys"
)

// fsck is what a check of the host's files finds, by path below the data folder.
func (h *host) fsck(how mvm.NodeCheck) map[string]string {
	h.t.Helper()
	found, err := h.a.NodeCheck(ctx(h.t), how, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range found {
		out[strings.TrimPrefix(f.Where, h.dir+"/")] = f.Severity + ": " + f.What
		if f.Severity == "error" && f.Fix == "" {
			h.t.Errorf("%+v does not say what to do", f)
		}
	}
	return out
}

// wantFsck wants these findings and no others; each is named by a part of it.
func (h *host) wantFsck(how mvm.NodeCheck, want map[string]string) {
	h.t.Helper()
	got := h.fsck(how)
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if w, ok := want[path]; !ok || !strings.Contains(got[path], w) {
			h.t.Errorf("%s: %s; want %q", path, got[path], w)
		}
	}
	for path, w := range want {
		if got[path] == "" {
			h.t.Errorf("%s is not found, want %q", path, w)
		}
	}
}

// all reads everything, too.
var all = mvm.NodeCheck{ReadData: true}

// TestFsckFindsWhatNobodyOwns: a check beside what runs, sleeps, stopped and was set aside
// finds nothing. What was left by somebody is named, and removed with repair alone, and what
// belongs to an instance stays.
func TestFsckFindsWhatNobodyOwns(t *testing.T) {
	d := newDamaged(t, agent.SetAsideLimits{})
	i := d.plain()
	d.spoil(i.ID)
	second := d.second(i)
	d.do(second.ID, mvm.OpSleep)
	boot := d.boot(i.ID)
	d.wantFsck(all, nil)
	d.do(i.ID, mvm.OpSleep)
	d.wantFsck(all, nil)

	own := "instances/" + i.ID
	for path, content := range map[string]string{
		"instances/i-0badf00d/data.img":                  "left",
		"instances/.trash-i-0badf00e/data.img":           "left",
		own + "/data.img.new":                            "left",
		own + "/snapshots/s-0badf00d/map":                "left",
		own + "/set-aside/s-0badf00e/map":                "left",
		own + "/segments/seg-" + strings.Repeat("0", 32): "left",
		own + "/notes.txt":                               "somebody's",
		"instances/notes.txt":                            "somebody's",
	} {
		path = filepath.Join(d.dir, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(content), 0o600))
	}
	left := map[string]string{
		"instances/i-0badf00d":                           "error: no record names this instance",
		"instances/.trash-i-0badf00e":                    "error: no record names this instance",
		own + "/data.img.new":                            "error: left by an operation",
		own + "/snapshots/s-0badf00d":                    "error: no record names this snapshot",
		own + "/set-aside/s-0badf00e":                    "error: no record names this snapshot",
		own + "/segments/seg-" + strings.Repeat("0", 32): "error: no snapshot needs this segment",
		own + "/notes.txt":                               "warning: mvm did not make this",
		"instances/notes.txt":                            "warning: mvm did not make this",
	}
	d.wantFsck(all, left)
	d.wantFsck(all, left) // looking changed nothing
	for path, what := range left {
		left[path] = strings.Replace(what, "error: ", "ok: removed: ", 1)
	}
	d.wantFsck(mvm.NodeCheck{Repair: true}, left)
	d.wantFsck(all, map[string]string{own + "/notes.txt": "warning", "instances/notes.txt": "warning"})
	for _, id := range []string{i.ID, second.ID} {
		if got := d.do(id, mvm.OpWake); got.Last.Kind != "warm" {
			t.Errorf("%s is woken by %q: %s", id, got.Last.Kind, got.Last.Reason)
		}
	}
	if d.boot(i.ID) != boot || len(d.snapshots(i.ID)) != 1 {
		t.Error("memory, or what was set aside, is lost")
	}
}

// second is one more instance of i's pool, which runs.
func (h *host) second(i mvm.Instance) mvm.Instance {
	h.t.Helper()
	got, err := h.a.CreateInstance(ctx(h.t), i.Tenant, i.Pool, "")
	if err != nil {
		h.t.Fatal(err)
	}
	return h.do(got.ID, mvm.OpStart)
}

// TestFsckFindsWhatIsLost: what a record needs and is not there, or damaged, is named with
// what to do. Repair can't bring it back, and removes nothing of it.
func TestFsckFindsWhatIsLost(t *testing.T) {
	for name, tt := range map[string]struct {
		how   mvm.NodeCheck
		spoil func(h *host, i mvm.Instance) map[string]string
	}{
		"data disk": {mvm.NodeCheck{Repair: true}, func(h *host, i mvm.Instance) map[string]string {
			must(h.t, os.Remove(h.durable(i, "data.img")))
			return map[string]string{"instances/" + i.ID + "/data.img": "is not there"}
		}},
		"folder": {mvm.NodeCheck{Repair: true}, func(h *host, i mvm.Instance) map[string]string {
			must(h.t, os.RemoveAll(h.durable(i)))
			return map[string]string{"instances/" + i.ID: "has no files"}
		}},
		"map": {mvm.NodeCheck{Repair: true}, func(h *host, i mvm.Instance) map[string]string {
			must(h.t, os.Remove(h.durable(i, "snapshots", i.Snapshot.ID, "map")))
			return map[string]string{"instances/" + i.ID + "/snapshots/" + i.Snapshot.ID: "can't be restored"}
		}},
		"snapshot": {mvm.NodeCheck{Repair: true}, func(h *host, i mvm.Instance) map[string]string {
			must(h.t, os.RemoveAll(h.durable(i, "snapshots", i.Snapshot.ID)))
			return map[string]string{"instances/" + i.ID + "/snapshots/" + i.Snapshot.ID: "is on record and not there"}
		}},
		"segment": {mvm.NodeCheck{Repair: true}, func(h *host, i mvm.Instance) map[string]string {
			must(h.t, os.Remove(h.segment(i)))
			return map[string]string{"instances/" + i.ID + "/snapshots/" + i.Snapshot.ID: "can't be restored"}
		}},
		"content of a segment": {mvm.NodeCheck{Repair: true, ReadData: true}, func(h *host, i mvm.Instance) map[string]string {
			scramble(h.t, h.segment(i))
			return map[string]string{"instances/" + i.ID + "/snapshots/" + i.Snapshot.ID: "can't be restored"}
		}},
		"image": {mvm.NodeCheck{}, func(h *host, i mvm.Instance) map[string]string {
			must(h.t, os.RemoveAll(filepath.Join(h.dir, "images", strings.Replace(i.Image, ":", "-", 1))))
			return map[string]string{i.Image: "an image of acme/workers"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.start()
			i := h.instance()
			i = h.do(i.ID, mvm.OpSleep)
			h.wantFsck(all, nil)
			want := tt.spoil(h, i)
			for path := range want {
				want[path] = "error: " + strings.TrimPrefix(want[path], "error: ")
			}
			got := h.fsck(tt.how)
			for path, w := range want {
				if !strings.HasPrefix(got[path], "error: ") || !strings.Contains(got[path], strings.TrimPrefix(w, "error: ")) {
					t.Errorf("%s: %q, want %q", path, got[path], w)
				}
			}
			if len(got) != len(want) {
				t.Errorf("found %q", got)
			}
			if rec := h.get(i.ID); rec.State != i.State || rec.Snapshot == nil || rec.Snapshot.ID != i.Snapshot.ID {
				t.Errorf("the record was changed: %+v", rec)
			}
		})
	}
}

// TestLostDataDisk: a start never replaces a lost data disk by an empty one.
func TestLostDataDisk(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.do(h.instance().ID, mvm.OpStop)
	h.wantFsck(all, nil)
	disk, aside := h.durable(i, "data.img"), h.dir+".lost"
	must(t, os.Rename(disk, aside))
	h.wantFsck(all, map[string]string{"instances/" + i.ID + "/data.img": "error: the data disk"})
	err := h.try(i.ID, mvm.OpStart)
	if err == nil || mvm.KindOf(err) != mvm.KindState || !strings.Contains(err.Error(), "data disk of "+i.Address().String()) {
		t.Errorf("start without its data disk: %v", err)
	}
	if _, err := os.Stat(disk); !os.IsNotExist(err) {
		t.Errorf("a data disk was made: %v", err)
	}
	must(t, os.Rename(aside, disk))
	h.do(i.ID, mvm.OpStart)
	h.wantFsck(all, nil)
}

// TestDiskOfAnOlderRecord: an older version did not record that a data disk was made. Who
// starts one without a disk is warned by fsck before, and one that is there is recorded.
func TestDiskOfAnOlderRecord(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.do(h.instance().ID, mvm.OpStop)
	h.forgetDisk(i.ID)
	must(t, os.Remove(h.durable(i, "data.img")))
	h.wantFsck(all, map[string]string{"instances/" + i.ID + "/data.img": "warning: there is no data disk"})
	h.do(i.ID, mvm.OpStart)
	h.do(i.ID, mvm.OpStop)
	h.forgetDisk(i.ID)
	h.do(i.ID, mvm.OpStart)
	if !h.get(i.ID).DiskMade {
		t.Error("a start does not record that there is a data disk")
	}
	h.wantFsck(all, nil)
}

// forgetDisk has the record not say that there is a data disk, as an older version's.
func (h *host) forgetDisk(id string) {
	h.stop()
	h.edit(id, func(i *mvm.Instance) { i.DiskMade = false })
	h.start()
}

// durable is a path in the instance's folder.
func (h *host) durable(i mvm.Instance, elem ...string) string {
	return filepath.Join(append([]string{h.dir, "instances", i.ID}, elem...)...)
}

// segment is the one segment of the instance.
func (h *host) segment(i mvm.Instance) string {
	h.t.Helper()
	all, err := filepath.Glob(h.durable(i, "segments", "seg-*"))
	if err != nil || len(all) != 1 {
		h.t.Fatalf("segments %q, %v; want one", all, err)
	}
	return all[0]
}

// scramble changes each byte of what follows the two heads of a file of a snapshot.
func scramble(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	for n := 2 * sys.PageSize; n < len(b); n++ {
		b[n] ^= 0xff
	}
	must(t, os.WriteFile(path, b, 0o600))
}

// TestFsckBesideOperations: while an operation is under way the instance is not checked, and
// the finding says so. Nothing of what the operation makes is taken for left over.
func TestFsckBesideOperations(t *testing.T) {
	h := newHost(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	h.start()
	h.onSeam(func(point string) error {
		if point == "sleep.commit:before" {
			close(inside)
			<-goOn
		}
		return nil
	})
	i := h.instance()
	done := make(chan error, 1)
	go func() {
		_, err := h.a.Operate(ctx(t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpSleep}, nil)
		done <- err
	}()
	<-inside
	h.wantFsck(mvm.NodeCheck{Repair: true}, map[string]string{i.Address().String(): "warning: not checked"})
	close(goOn)
	must(t, <-done)
	if got := h.do(i.ID, mvm.OpWake); got.Last.Kind != "warm" {
		t.Errorf("woken by %q: %s", got.Last.Kind, got.Last.Reason)
	}
}

// TestDiskEqualsTheFiles: what is said of the disk's use is what all files take, each once.
func TestDiskEqualsTheFiles(t *testing.T) {
	d := newDamaged(t, agent.SetAsideLimits{})
	i := d.plain()
	d.spoil(i.ID)
	second := d.second(i)
	d.do(second.ID, mvm.OpSleep)
	must(t, os.WriteFile(filepath.Join(d.dir, "instances", "left"), make([]byte, 70_000), 0o600))
	got, err := d.a.NodeDisk(ctx(t))
	must(t, err)
	sum := got.Images + got.Sleepers + got.DataDisks + got.SetAside + got.Logs + got.Other
	if want := allocated(t, d.dir); sum != want || got.Sleepers == 0 || got.SetAside == 0 || got.Other < 70_000 {
		t.Errorf("%+v: together %d, and the files take %d", got, sum, want)
	}
}

// allocated is what the files below a folder take, each once.
func allocated(t *testing.T, dir string) (sum int64) {
	seen := map[uint64]bool{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !seen[st.Ino] {
			seen[st.Ino] = true
			n, aerr := sys.AllocatedBytes(path)
			must(t, aerr)
			sum += n
		}
		return err
	}))
	return sum
}
