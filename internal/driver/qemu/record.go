package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// record is vmm.json: which process is the VMM. It is written once the process
// exists, and removed when it is gone.
type record struct {
	Version int      `json:"version"` // of this format: 1
	ID      string   `json:"id"`
	PID     int      `json:"pid"`
	Start   uint64   `json:"start_ticks"` // /proc/PID/stat, field 22
	BootID  string   `json:"boot_id"`     // of the host
	Cgroups []string `json:"cgroups,omitempty"`
	TAP     string   `json:"tap,omitempty"`
	Memory  string   `json:"memory"`
}

// The driver's files in RunDir.
const (
	lockFile = "vmm.lock"
	recFile  = "vmm.json"
	logFile  = "vmm.log"
	qmpSock  = "qmp.sock"
	chanSock = "chan.sock"
	conSock  = "con.sock"
)

// maxRecord bounds vmm.json.
const maxRecord = 64 << 10

func readRecord(runDir string) (record, error) {
	var r record
	var b []byte
	err := sys.InFolder(runDir, func(d *sys.Folder) (err error) {
		b, err = d.ReadFile(recFile, maxRecord)
		return err
	})
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && r.Version != 1 {
		err = errors.New("vmm.json has a version that this agent does not know")
	}
	return r, err
}

// write replaces vmm.json whole. It need not outlive the host's boot: no fsync.
func (r record) write(runDir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return sys.InFolder(runDir, func(d *sys.Folder) error { return d.WriteFile(recFile, b, false) })
}

// removeFiles removes what the driver made in RunDir, but not the lock: that goes
// last, by unlock.
func removeFiles(runDir string) error {
	return sys.IfThere(sys.InFolder(runDir, func(d *sys.Folder) error {
		var errs []error
		for _, n := range []string{recFile, recFile + ".new", logFile, qmpSock, chanSock, conSock, "v.sock", "v.sock.new"} {
			errs = append(errs, d.RemoveAll(n))
		}
		return errors.Join(errs...)
	}))
}

// lock takes the instance's VMM lock; the file goes on to the VMM, so that the
// lock is held for as long as either lives. KindState when a VMM has it.
func lock(runDir string) (f *os.File, err error) {
	err = sys.InFolder(runDir, func(d *sys.Folder) (err error) {
		f, err = lockIn(d)
		return err
	})
	return f, mvm.Explain("open the VMM's lock", err)
}

func lockIn(d *sys.Folder) (*os.File, error) {
	for {
		f, err := d.OpenOrCreate(lockFile, os.O_RDWR)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, mvm.Errorf(mvm.KindState, "lock %s: the instance already has a VMM", f.Name())
		}
		if err != nil {
			return nil, errors.Join(mvm.Errorf(mvm.KindInternal, "lock %s: %w", f.Name(), err), f.Close())
		}
		if d.IsNamed(f, lockFile) {
			return f, nil
		}
		f.Close() // removed between open and lock
	}
}

// removeLock removes the lock file, whoever holds it.
func removeLock(runDir string) error {
	return sys.InFolder(runDir, func(d *sys.Folder) error { return d.RemoveAll(lockFile) })
}

// unlock removes the lock file that f holds, and lets go.
func unlock(runDir string, f *os.File) error {
	err := sys.InFolder(runDir, func(d *sys.Folder) error {
		if d.IsNamed(f, lockFile) {
			return d.Remove(lockFile)
		}
		return nil
	})
	return errors.Join(sys.IfThere(err), f.Close())
}

// find takes hold of the VMM process of the instance. ErrNoProcess when there is
// none. The record is empty when it was not there; it may be wrong.
func (d *Driver) find(ctx context.Context, spec driver.Spec) (vmproc.Process, record, error) {
	hint := vmproc.Hint{UID: spec.UID}
	rec, err := readRecord(spec.RunDir)
	if err == nil {
		if boot, berr := sys.HostBootID(); berr == nil && rec.BootID == boot {
			hint.PID, hint.Start = rec.PID, rec.Start
		}
	}
	p, err := d.host.Find(ctx, nameOf(spec), hint)
	return p, rec, err
}
