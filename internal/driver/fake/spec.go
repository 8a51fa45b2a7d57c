package fake

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

// maxSocketPath is what fits into a unix socket's address.
const maxSocketPath = 107

// checkSpec refuses a Spec that a real VMM could not start with.
func checkSpec(s driver.Spec) error {
	bad := func(format string, args ...any) error {
		return mvm.Errorf(mvm.KindInvalid, "spec of "+s.ID+": "+format, args...)
	}
	switch {
	case s.ID == "":
		return bad("it has no id")
	case s.VCPUs < 1:
		return bad("%d vCPUs", s.VCPUs)
	case s.MemMiB < 1:
		return bad("%d MiB of memory", s.MemMiB)
	case len(filepath.Join(s.RunDir, "v.sock_4294967295")) > maxSocketPath:
		return bad("run folder %s is too long for unix sockets", s.RunDir)
	}
	for what, p := range map[string]string{"folder": s.Dir, "run folder": s.RunDir, "kernel": s.Kernel, "memory": s.Memory} {
		if !filepath.IsAbs(p) {
			return bad("%s path %q is not absolute", what, p)
		}
	}
	files := []string{s.Kernel}
	if s.Initrd != "" {
		files = append(files, s.Initrd)
	}
	for _, d := range s.Disks {
		if len(d.Serial) > 20 {
			return bad("disk serial %q is longer than 20 bytes", d.Serial)
		}
		files = append(files, d.Path)
	}
	for _, f := range files {
		if s.Opened[f] != nil {
			f = fmt.Sprintf("/proc/self/fd/%d", s.Opened[f].Fd())
		}
		if rel, err := filepath.Rel(s.Dir, f); err == nil && filepath.IsLocal(rel) { // the instance's own
			if err := sys.InParent(s.Dir, f, func(d *sys.Folder, name string) error { _, _, err := d.Size(name); return err }); err != nil {
				return badFile(s, err)
			}
			continue
		}
		if st, err := os.Stat(f); err != nil {
			return bad("%w", err)
		} else if st.IsDir() {
			return bad("%s is a folder", f)
		}
	}
	for _, d := range []string{s.Dir, s.RunDir, filepath.Dir(s.Memory)} {
		if st, err := os.Stat(d); err != nil {
			return bad("%w", err)
		} else if !st.IsDir() {
			return bad("%s is not a folder", d)
		}
	}
	return nil
}

// badFile refuses a file of the instance.
func badFile(s driver.Spec, err error) error {
	if errors.Is(err, sys.ErrForeign) {
		return mvm.Explain("spec of "+s.ID, err)
	}
	return mvm.Errorf(mvm.KindInvalid, "spec of %s: %w", s.ID, err)
}

// checkFits refuses a snapshot that does not fit the Spec.
func checkFits(s driver.Spec, f stateFile) error {
	want := newStateFile(f.Snapshot, s)
	bad := func(what string, got, want any) error {
		return mvm.Errorf(mvm.KindInvalid, "restore %s: the snapshot has %s %v, the spec %v", s.ID, what, got, want)
	}
	switch {
	case f.Snapshot == "":
		return mvm.Errorf(mvm.KindInvalid, "restore %s: the device state is not complete", s.ID)
	case f.Version != want.Version:
		return bad("version", f.Version, want.Version)
	case f.MemMiB != want.MemMiB:
		return bad("memory MiB", f.MemMiB, want.MemMiB)
	case f.VCPUs != want.VCPUs:
		return bad("vCPUs", f.VCPUs, want.VCPUs)
	case len(f.Disks) != len(want.Disks):
		return bad("disks", f.Disks, want.Disks)
	}
	for i := range f.Disks {
		if f.Disks[i] != want.Disks[i] {
			return bad("disks", f.Disks, want.Disks)
		}
	}
	return nil
}
