package drivertest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
)

// testNothing asks for what is not there.
func testNothing(t *testing.T, s *suite) {
	spec := s.spec(t)
	before := files(spec)
	_, err := s.Driver.Recover(t.Context(), spec)
	wantKind(t, "recover of nothing", err, mvm.KindNotFound)
	for range 2 {
		if err := s.Driver.Destroy(t.Context(), spec); err != nil {
			t.Errorf("destroy of nothing: %v", err)
		}
	}
	bare := driver.Spec{ID: spec.ID, Dir: spec.Dir, RunDir: spec.RunDir, Cgroup: spec.Cgroup}
	if err := s.Driver.Destroy(t.Context(), bare); err != nil {
		t.Errorf("destroy of nothing with a bare spec: %v", err)
	}
	if err := os.RemoveAll(spec.RunDir); err != nil {
		t.Fatal(err)
	}
	if err := s.Driver.Destroy(t.Context(), bare); err != nil {
		t.Errorf("destroy without a run folder: %v", err)
	}
	_, err = s.Driver.Recover(t.Context(), spec)
	wantKind(t, "recover without a run folder", err, mvm.KindNotFound)
	ended, err := s.Driver.Sweep(t.Context(), s.Root, func(string) bool { return false })
	if err != nil || len(ended) > 0 {
		t.Errorf("sweep of nothing: %v, %v", ended, err)
	}
	ended, err = s.Driver.Sweep(t.Context(), filepath.Join(s.Root, "none"), func(string) bool { return false })
	if err != nil || len(ended) > 0 {
		t.Errorf("sweep of a folder that is not there: %v, %v", ended, err)
	}
	s.nothing(t, spec, before)
}

// testBadSpec starts what can't be started.
func testBadSpec(t *testing.T, s *suite) {
	for _, c := range []struct {
		name  string
		spoil func(*driver.Spec)
	}{
		{"NoID", func(s *driver.Spec) { s.ID = "" }},
		{"NoKernel", func(s *driver.Spec) { s.Kernel += ".none" }},
		{"NoInitrd", func(s *driver.Spec) { s.Initrd = filepath.Join(s.Dir, "initrd.none") }},
		{"RelativeKernel", func(s *driver.Spec) { s.Kernel = "kernel" }},
		{"NoMemory", func(s *driver.Spec) { s.MemMiB = 0 }},
		{"NegativeMemory", func(s *driver.Spec) { s.MemMiB = -128 }},
		{"NoVCPUs", func(s *driver.Spec) { s.VCPUs = 0 }},
		{"NoDisk", func(s *driver.Spec) {
			s.Disks = append(s.Disks[:len(s.Disks):len(s.Disks)], driver.Disk{Path: filepath.Join(s.Dir, "disk.none"), Serial: "mvm-data"})
		}},
		{"LongSerial", func(s *driver.Spec) {
			s.Disks = append(s.Disks[:len(s.Disks):len(s.Disks)], driver.Disk{Path: s.Kernel, Serial: strings.Repeat("x", 21), ReadOnly: true})
		}},
		{"LongRunDir", func(s *driver.Spec) { s.RunDir = filepath.Join(s.RunDir, strings.Repeat("x", 100)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			good := s.spec(t)
			before := files(good)
			bad := good
			c.spoil(&bad)
			_, err := s.Driver.Start(t.Context(), bad)
			wantKind(t, "start", err, mvm.KindInvalid)
			s.nothing(t, good, before)
		})
	}
}

// testCanceledStart cuts Start off at several moments. It may be done already; if
// not, nothing is left.
func testCanceledStart(t *testing.T, s *suite) {
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond, 120 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			spec := s.spec(t)
			before := files(spec)
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			v, err := s.Driver.Start(ctx, spec)
			switch {
			case err == nil && after == 0:
				t.Error("start succeeded although its context had ended")
			case err == nil:
				if err := v.Kill(t.Context()); err != nil {
					t.Fatal(err)
				}
				return
			}
			wantKind(t, "start", err, mvm.KindCanceled, mvm.KindTimeout, mvm.KindUnavailable)
			s.nothing(t, spec, before)
			_, err = s.Driver.Recover(t.Context(), spec)
			wantKind(t, "recover", err, mvm.KindNotFound)
		})
	}
}

// testOpened starts a VMM with files that the caller has opened: it gets those, whatever
// is at their paths by then, and the caller has them still.
func testOpened(t *testing.T, s *suite) {
	spec := s.spec(t)
	f, err := os.Open(spec.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec.Kernel = filepath.Join(spec.Dir, "no-kernel-here")
	spec.Opened = map[string]*os.File{spec.Kernel: f}
	v := s.start(t, spec)
	if err := v.Kill(t.Context()); err != nil {
		t.Errorf("kill: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := f.Stat(); err != nil {
		t.Errorf("the driver closed a file of its caller: %v", err)
	}
}
