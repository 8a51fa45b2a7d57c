package segment_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mvm/internal/snapshot/sealed"
	"mvm/internal/snapshot/segment"
	"mvm/internal/testenv/durable"
	"mvm/internal/testenv/quick"
)

// after is a memory after the guest of slept went on.
func after(mem memory) memory {
	next := bytes.Clone(mem)
	for n := range 30 { // most of the first segment dies
		memory(next).fill(n, 99)
	}
	for n := 120; n < 150; n++ {
		memory(next).fill(n, 99)
	}
	return next
}

// works are what is done with an instance that slept made, with its key and the next one.
var works = map[string]func(i *instance, p segment.Place, prev *segment.Map, mem memory) error{
	"save": func(i *instance, _ segment.Place, prev *segment.Map, mem memory) error {
		_, err := i.placeOf("s-00000004").Save(context.Background(), i.sleep(after(mem), prev))
		return err
	},
	"pack": func(_ *instance, p segment.Place, prev *segment.Map, _ memory) error {
		return p.Pack(context.Background(), prev)
	},
	"rewrap": func(i *instance, p segment.Place, _ *segment.Map, mem memory) error {
		return p.Rewrap(uint32(mem.pages()), openKey(i.t, must(os.ReadFile(i.dir+"/next.key"))(i.t)))
	},
}

// exit ends a child that can't do its work.
type exit struct{}

func (exit) Helper() {}
func (exit) Fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(3)
}

// child does one of the works in a folder that slept made.
func child(dir string) int {
	// Through a link, calls that open folders are not those that the parent looks for.
	i := openInstance(exit{}, dir+".link", sleptBase(), 150)
	i.key = openKey(i.t, must(os.ReadFile(dir+"/key"))(i.t))
	p := i.placeOf("s-00000003")
	mem, prev := sleptMemory(3), must(p.ReadMap(150))(i.t)
	if err := works[os.Getenv("MVM_SEGMENT_WORK")](i, p, prev, mem); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// scene is an instance in a folder that children can have copies of.
type scene struct {
	*instance
	mem  memory
	next []byte // the key after rewrap, as it is stored
}

func newScene(t *testing.T) *scene {
	t.Helper()
	i, mem, p, _ := slept(t)
	key, stored := newStoredKey(t)
	_, next := newStoredKey(t)
	ok(t, p.Rewrap(uint32(mem.pages()), key))
	ok(t, os.RemoveAll(i.dir+"/s-00000001"))
	ok(t, os.RemoveAll(i.dir+"/s-00000002")) // under the key from before
	ok(t, os.Mkdir(i.dir+"/s-00000004", 0o700))
	ok(t, os.WriteFile(i.dir+"/key", stored, 0o600))
	ok(t, os.WriteFile(i.dir+"/next.key", next, 0o600))
	i.key = key
	return &scene{i, mem, next}
}

// fault is a system call that fails, or during which the process is killed.
type fault struct {
	call string // of strace
	path string // only with this file or folder; "": any
	to   int    // how many of them are tried
}

// faults are the calls with which the works change something.
var faults = map[string][]fault{
	"save": {
		{"openat", "s-00000004", 3}, {"openat", "segments", 1}, {"pwrite64", "s-00000004/device", 3}, {"pwrite64", "s-00000004/map.new", 3},
		{"pwrite64", "", 4}, {"fsync", "s-00000004/device", 1}, {"fsync", "s-00000004/map.new", 1}, {"fsync", "", 2}, {"fsync", "segments", 1},
		{"renameat", "s-00000004", 1}, {"fsync", "s-00000004", 1},
	},
	"pack": {
		{"openat", "segments", 8}, {"pwrite64", "", 4}, {"fsync", "", 2}, {"fsync", "segments", 1}, {"renameat", "segments", 1},
	},
	"rewrap": {
		{"pwrite64", "", 11}, {"fsync", "", 11}, {"pwrite64", "s-00000003/map", 2}, {"fsync", "s-00000003/map", 2},
	},
}

// run does a work in a copy of the scene with the n-th call failing as how says, and returns
// the copy, and whether the child ended well, was killed, or said what went wrong.
func (s *scene) run(t *testing.T, work string, f fault, how string, n int) (c *scene, end string) {
	t.Helper()
	dir := filepath.Join(quick.Dir(t), "copy")
	ok(t, os.CopyFS(dir, os.DirFS(s.dir)))
	for _, sub := range []string{"segments", "s-00000003", "s-00000004"} {
		ok(t, os.Chmod(filepath.Join(dir, sub), 0o700))
	}
	ok(t, os.Symlink(dir, dir+".link"))
	args := []string{"-f", "-qq", "-o", dir + ".trace", "-e", "signal=none", "-e", "trace=" + f.call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", f.call, how, n)}
	if f.path != "" {
		args = append(args, "-P", filepath.Join(dir, f.path))
	}
	cmd := exec.CommandContext(t.Context(), "strace", append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), "MVM_SEGMENT_CHILD="+dir, "MVM_SEGMENT_WORK="+work, "GOMAXPROCS=1")
	out, err := cmd.CombinedOutput()
	c = &scene{openInstance(t, dir, sleptBase(), 150), s.mem, s.next}
	t.Cleanup(c.close)
	c.key = s.key
	var exited *exec.ExitError
	switch {
	case err == nil:
		return c, "done"
	case errors.As(err, &exited) && exited.ExitCode() == 1:
		return c, string(out)
	case errors.As(err, &exited) && strings.Contains(exited.String(), "killed"):
		return c, "killed"
	}
	t.Fatalf("%s: %v: %s", cmd, err, out)
	return nil, ""
}

// eachFault calls fn with each fault of a work.
func (s *scene) eachFault(t *testing.T, work, how string, fn func(t *testing.T, c *scene, end string)) {
	t.Helper()
	ends := map[string]int{}
	for _, f := range faults[work] {
		hit := false
		for n := 1; n <= f.to; n++ {
			c, end := s.run(t, work, f, how, n)
			t.Run(fmt.Sprintf("%s/%s_%s/%d", work, f.call, filepath.Base(f.path), n), func(t *testing.T) { fn(t, c, end) })
			hit = hit || end != "done"
			ends[strings.SplitN(end, ":", 2)[0]]++
			ok(t, os.RemoveAll(c.dir))
		}
		if !hit {
			t.Errorf("%s: no %s of %q was hit", work, f.call, f.path)
		}
	}
	t.Logf("%s: %v", work, ends)
}

// TestKilledAnywhere: whatever call the process is killed in, what was there before is whole,
// a snapshot that has a map is whole too, and a sweep leaves nothing else.
func TestKilledAnywhere(t *testing.T) {
	s := newScene(t)
	s.eachFault(t, "save", "signal=KILL", func(t *testing.T, c *scene, end string) {
		old, p := c.placeOf("s-00000003"), c.placeOf("s-00000004")
		kept := []*segment.Map{c.wantWake(t, "the snapshot before", old, c.mem)}
		switch got, m, err := c.wake(p); {
		case err == nil && !bytes.Equal(got, after(c.mem)):
			t.Error("the new snapshot has another memory")
		case err == nil:
			kept = append(kept, m)
		case end == "done", sealed.ReasonOf(err) != sealed.Missing || !strings.Contains(err.Error(), "/map:"):
			t.Errorf("the new snapshot after %s: %v", end, err)
		}
		must(segment.Sweep(c.segments, kept...))(t)
		c.wantSegments(t, "swept", kept...)
		c.wantWake(t, "swept", old, c.mem)
	})
	s.eachFault(t, "pack", "signal=KILL", func(t *testing.T, c *scene, _ string) {
		p := c.placeOf("s-00000003")
		m := c.wantWake(t, "after it", p, c.mem)
		must(segment.Sweep(c.segments, m))(t)
		ok(t, p.Pack(t.Context(), m))
		c.wantWake(t, "packed", p, c.mem)
		c.wantSegments(t, "packed", m)
	})
	s.eachFault(t, "rewrap", "signal=KILL", func(t *testing.T, c *scene, _ string) { c.wantRewrapped(t) })
}

// wantRewrapped: a rewrap that was cut off can be finished, and then the next key alone opens.
func (s *scene) wantRewrapped(t *testing.T) {
	t.Helper()
	p := s.placeOf("s-00000003")
	next := openKey(t, s.next)
	ok(t, p.Rewrap(uint32(s.mem.pages()), next))
	was := s.key.ID()
	p.Key = next
	m := s.wantWake(t, "wrapped anew", p, s.mem)
	for _, path := range s.files(p) {
		if bytes.Contains(must(os.ReadFile(path))(t)[:8192], was[:]) {
			t.Errorf("%s is still wrapped by the key from before", path)
		}
	}
	s.wantSegments(t, "wrapped anew", m)
}

// TestFullDiskAnywhere: whatever call finds the disk full, the error says so and what to do,
// what was there before is whole, and nothing else is left.
func TestFullDiskAnywhere(t *testing.T) {
	s := newScene(t)
	told := func(t *testing.T, end string) {
		t.Helper()
		if end != "done" && (!strings.Contains(end, "no space left on device") || !strings.Contains(end, "free space")) {
			t.Errorf("said %q", end)
		}
	}
	s.eachFault(t, "save", "error=ENOSPC", func(t *testing.T, c *scene, end string) {
		told(t, end)
		m := c.wantWake(t, "the snapshot before", c.placeOf("s-00000003"), c.mem)
		if end == "done" {
			m = c.wantWake(t, "the new one", c.placeOf("s-00000004"), after(c.mem))
			must(segment.Sweep(c.segments, m))(t)
		} else if left := must(os.ReadDir(c.dir + "/s-00000004"))(t); len(left) > 0 {
			t.Errorf("left %v", left)
		}
		c.wantSegments(t, end, m)
	})
	s.eachFault(t, "pack", "error=ENOSPC", func(t *testing.T, c *scene, end string) {
		told(t, end)
		c.wantSegments(t, end, c.wantWake(t, "after it", c.placeOf("s-00000003"), c.mem))
	})
	s.eachFault(t, "rewrap", "error=ENOSPC", func(t *testing.T, c *scene, end string) {
		told(t, end)
		c.wantRewrapped(t)
	})
}

// TestAllIsDurable: when a work returns, its files and their names would outlive a crash of
// the host, and no file had its final name before.
func TestAllIsDurable(t *testing.T) {
	for _, work := range slices.Sorted(maps.Keys(works)) {
		s := newScene(t)
		p := s.placeOf("s-00000003")
		p.Key = s.key
		durable.Self(t, s.dir, nil, func() {
			prev := must(p.ReadMap(uint32(s.mem.pages())))(t)
			ok(t, works[work](s.instance, p, prev, s.mem))
		})
	}
}
