package fake

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

// State is where a VMM is in its life.
type State string

// The states.
const (
	Starting State = "starting"
	Running  State = "running"
	Paused   State = "paused"
	Gone     State = "gone"
)

// The driver's files, beside Spec.Memory and those of package atrest.
const (
	recordName = "fake-vmm.json"  // in RunDir: the VMM
	diskName   = "fake-disk.json" // in Dir: the guest's /data
	version    = "1"
)

// record is a VMM as its file has it.
type record struct {
	ID     string       `json:"id"`
	State  State        `json:"state"`
	Spec   driver.Spec  `json:"spec"` // without the TAP
	Guest  guestState   `json:"guest"`
	Loaded string       `json:"loaded,omitempty"` // the snapshot that it stands at
	Exit   *driver.Exit `json:"exit,omitempty"`
}

// memoryFile is the guest's memory in a snapshot. In Spec.Memory it is empty, or what an older
// version left.
type memoryFile struct {
	// Snapshot is the id of the snapshot that this memory belongs to; empty from
	// the moment that vCPUs run.
	Snapshot string     `json:"snapshot"`
	Guest    guestState `json:"guest"`
}

// stateFile is the state of the devices.
type stateFile struct {
	Snapshot string   `json:"snapshot"`
	Version  string   `json:"version"`
	VCPUs    int      `json:"vcpus"`
	MemMiB   int      `json:"mem_mib"`
	Disks    []string `json:"disks"` // serials
	Bytes    int      `json:"bytes"` // of the guest's memory; 0 in those of older versions
}

func newStateFile(nonce string, spec driver.Spec) stateFile {
	s := stateFile{Snapshot: nonce, Version: version, VCPUs: spec.VCPUs, MemMiB: spec.MemMiB}
	for _, d := range spec.Disks {
		s.Disks = append(s.Disks, d.Serial)
	}
	return s
}

// writeFile replaces a file in or below root at once. With sync it is durable; without,
// it outlives the process only, as memory does.
func writeFile(root, path string, v any, sync bool) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return sys.InParent(root, path, func(d *sys.Folder, name string) error {
		f, err := d.Create(halfPrefix + name)
		if err != nil {
			return err
		}
		_, err = f.Write(b)
		if err == nil && sync {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
		if err == nil {
			err = d.Rename(halfPrefix+name, d, name)
		}
		if err == nil && sync {
			err = d.Sync()
		}
		if err != nil {
			return errors.Join(err, d.Remove(halfPrefix+name))
		}
		return nil
	})
}

// halfPrefix begins the name of what writeFile writes to before it takes a file's name.
const halfPrefix = "fake-tmp-"

// removeHalves removes what a process killed in writeFile left beside the instance's
// files. Nothing of the instance may be written meanwhile.
func removeHalves(spec driver.Spec) error {
	var err error
	for _, path := range []string{filepath.Join(spec.Dir, diskName), spec.Memory} {
		if !filepath.IsAbs(path) {
			continue // Sweep knows only where the VMM ran
		}
		err = errors.Join(err, removeAll(filepath.Dir(path), halfPrefix))
	}
	return err
}

// readFile reads a file of writeFile in or below root, within a bound. KindInvalid when
// it is missing or damaged, which a Restore tells as a driver.SnapshotError.
func readFile(what, root, path string, v any) error {
	var b []byte
	err := sys.InParent(root, path, func(d *sys.Folder, name string) (err error) {
		b, err = d.ReadFile(name, maxGuestBytes*2)
		return err
	})
	if errors.Is(err, sys.ErrForeign) || mvm.IsKind(err, mvm.KindInvalid) {
		return mvm.Explain("read "+what, err)
	}
	if err != nil {
		return unreadable(what, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "read %s %s: it is damaged: %w", what, path, err)
	}
	return nil
}

// unreadable is the error for a file that can't be read: what is missing was lost, and
// anything else is the host's fault.
func unreadable(what string, err error) error {
	kind := mvm.KindInternal
	if errors.Is(err, fs.ErrNotExist) {
		kind = mvm.KindInvalid
	}
	return mvm.Errorf(kind, "read %s: %w", what, err)
}

// badSnapshot marks what KindInvalid is about: a snapshot that was read.
func badSnapshot(err error) error {
	if mvm.IsKind(err, mvm.KindInvalid) {
		return &driver.SnapshotError{Err: err}
	}
	return err
}

// readRecord returns the VMM that RunDir tells of, nil when there is none or it is gone.
func readRecord(runDir string) (*record, error) {
	var r record
	path := filepath.Join(runDir, recordName)
	if err := readFile("VMM record", runDir, path, &r); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	if r.State == Gone {
		return nil, nil
	}
	return &r, nil
}

// removeRecord removes the driver's files in RunDir. It is idempotent.
func removeRecord(runDir string) error { return removeAll(runDir, "fake-") }

// removeAll removes what has the prefix in the folder, if that is there.
func removeAll(dir, prefix string) error {
	return sys.IfThere(sys.InFolder(dir, func(d *sys.Folder) error {
		names, err := d.Names()
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				err = errors.Join(err, d.RemoveAll(name))
			}
		}
		return err
	}))
}

// removeMemory removes the memory file if it is there.
func removeMemory(spec driver.Spec) error {
	return sys.IfThere(sys.InParent(spec.Dir, spec.Memory, (*sys.Folder).RemoveAll))
}
