package snapshot_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/snapshot"
	"mvm/internal/snapshot/segment"
	"mvm/internal/sys"
)

// memory is a guest's, of a few pages.
type memory []byte

func (m memory) Read(_ context.Context, pieces []segment.Piece) error {
	for _, p := range pieces {
		copy(p.Data, m[int(p.Page)*segment.Page:])
	}
	return nil
}

// save puts a guest whose memory is the text, twice, to sleep.
func save(t *testing.T, f snapshot.Files, id, text string) mvm.SnapshotRef {
	t.Helper()
	mem := memory(make([]byte, 40*segment.Page))
	for n := range 20 {
		copy(mem[n*segment.Page:], strings.Repeat(text, n+1))
	}
	copy(mem[30*segment.Page:], "the same in all")
	must(t, f.Write(mvm.SnapshotRef{ID: id, Sealed: true}, func(s driver.Snapshot) error {
		return sys.InFolder(filepath.Dir(s.State), func(own *sys.Folder) error {
			return sys.InFolder(s.Segments, func(all *sys.Folder) error {
				p := segment.Place{ID: s.ID, Own: own, Segments: all, Key: s.Key}
				sleep := segment.Sleep{Memory: mem, Pages: 40, Changed: []segment.Run{{Page: 0, Count: 40}}, Device: strings.NewReader("device")}
				if s.Previous.Dir != "" {
					must(t, sys.InFolder(s.Previous.Dir, func(d *sys.Folder) (err error) {
						sleep.Previous, err = segment.Place{ID: s.Previous.ID, Own: d, Key: s.Key}.ReadMap(40)
						return err
					}))
				}
				_, err := p.Save(t.Context(), sleep)
				return err
			})
		})
	}))
	return mvm.SnapshotRef{ID: id, Sealed: true, MemMiB: 1}
}

// segments are the names of the instance's segments.
func segments(t *testing.T, f snapshot.Files) (names []string) {
	t.Helper()
	for _, name := range tree(t, f) {
		if strings.HasPrefix(name, "segments/") {
			names = append(names, name)
		}
	}
	return names
}

func wantSegments(t *testing.T, when string, f snapshot.Files, want int) {
	t.Helper()
	if got := segments(t, f); len(got) != want {
		t.Errorf("%s there are segments %q, want %d", when, got, want)
	}
}

// TestSegmentsLiveAsLongAsTheyAreNeeded: through sleeps, wakes, a snapshot that is set aside and
// one that a crash has left, segments stay while a map names them, and no longer.
func TestSegmentsLiveAsLongAsTheyAreNeeded(t *testing.T) {
	f := folder(t)
	one := save(t, f, "s-00000001", "one")
	must(t, f.Settled(one))
	if misfit, err := f.Missing(one); misfit != nil || err != nil {
		t.Errorf("a whole snapshot: %v, %v", misfit, err)
	}
	wantSegments(t, "asleep", f, 1)
	for range 2 {
		must(t, f.Spent(one.ID))
	}
	wantTree(t, "awake", f, append([]string{"previous/s-00000001/map"}, segments(t, f)...)...)
	if misfit, err := f.Missing(one); !mvm.IsKind(misfit, mvm.KindState) || err != nil {
		t.Errorf("one that a guest runs from: %v, %v", misfit, err)
	}
	if n, err := f.Bytes(""); err != nil || n == 0 {
		t.Errorf("it holds %d bytes, %v", n, err)
	}

	save(t, f, "s-00000002", "a sleep that is called off") // relies on the one before
	wantSegments(t, "before it is called off", f, 2)
	must(t, f.Remove("s-00000002"))
	wantSegments(t, "after a sleep was called off", f, 1)
	two := save(t, f, "s-00000003", "two")
	must(t, f.Settled(two))
	wantTree(t, "asleep again", f, append(segments(t, f), "snapshots/s-00000003/device", "snapshots/s-00000003/map")...)

	was := segments(t, f)
	must(t, f.SetAside(two.ID))
	must(t, f.DropMemory())
	wantSegments(t, "set aside, at a boot", f, len(was))
	save(t, f, "s-00000004", "three") // a crash leaves it
	must(t, f.KeepOnly(""))
	wantSegments(t, "after a sweep", f, len(was))

	// Nothing goes while nobody can tell whether it is needed.
	path := filepath.Join(f.Dir, "set-aside", two.ID, "map")
	whole, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, bytes.Repeat([]byte("x"), len(whole)), 0o600))
	must(t, f.Discard())
	wantSegments(t, "beside a map that is damaged", f, len(was))
	must(t, os.WriteFile(path, whole, 0o600))

	must(t, f.BringBack(two.ID))
	must(t, f.Settled(two))
	if misfit, err := f.Missing(two); misfit != nil || err != nil {
		t.Errorf("brought back: %v, %v", misfit, err)
	}
	must(t, f.SetAside(two.ID))
	must(t, f.RemoveAside(two.ID))
	wantTree(t, "removed", f)
}

// TestSleepRemovesMemoryInTheClear: what an older version kept is gone once the instance sleeps
// sealed, and stays for a snapshot that needs it.
func TestSleepRemovesMemoryInTheClear(t *testing.T) {
	f := files(t)
	must(t, f.Settled(mvm.SnapshotRef{ID: "s-00000001"}))
	wantTree(t, "asleep as an older version left it", f, "memory", "snapshots/s-00000001/state")
	must(t, f.Spent("s-00000001"))
	wantTree(t, "awake", f, "memory")
	must(t, f.Settled(save(t, f, "s-00000002", "x")))
	wantTree(t, "asleep sealed", f, append(segments(t, f), "snapshots/s-00000002/device", "snapshots/s-00000002/map")...)
}
