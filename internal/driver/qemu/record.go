package qemu

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
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
	f, err := os.Open(filepath.Join(runDir, recFile))
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	var r record
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
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
	tmp := filepath.Join(runDir, recFile+".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(runDir, recFile))
}

// removeFiles removes what the driver made in RunDir, but not the lock: that goes
// last, by unlock.
func removeFiles(runDir string) error {
	var errs []error
	for _, n := range []string{recFile, recFile + ".new", logFile, qmpSock, chanSock, conSock, "v.sock", "v.sock.new"} {
		if err := os.Remove(filepath.Join(runDir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// lock takes the instance's VMM lock; the file goes on to the VMM, so that the
// lock is held for as long as either lives. KindState when a VMM has it.
func lock(runDir string) (*os.File, error) {
	path := filepath.Join(runDir, lockFile)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, mvm.Errorf(mvm.KindInternal, "open the VMM's lock: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, mvm.Errorf(mvm.KindState, "lock %s: a VMM runs for this instance already", path)
		}
		if err != nil {
			return nil, errors.Join(mvm.Errorf(mvm.KindInternal, "lock %s: %w", path, err), f.Close())
		}
		if sameFile(f, path) {
			return f, nil
		}
		f.Close() // removed between open and lock
	}
}

// unlock removes the lock file that f holds, and lets go.
func unlock(f *os.File) error {
	if sameFile(f, f.Name()) {
		_ = os.Remove(f.Name())
	}
	return f.Close()
}

func sameFile(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// find takes hold of the VMM process of the instance: the one that vmm.json names,
// else one with the instance's name among all processes. ErrNoProcess when there
// is none. The record is empty when it was not there.
func (d *Driver) find(spec driver.Spec) (*sys.Process, record, error) {
	rec, err := readRecord(spec.RunDir)
	if err == nil {
		boot, _ := sys.HostBootID()
		if p, err := d.open(rec.PID, name(spec)); err == nil {
			if p.Start == rec.Start && rec.BootID == boot {
				return p, rec, nil
			}
			p.Close()
		}
	}
	pids, err := sys.FindProcesses(d.binary, func(args []string) bool { return nameOf(args) == name(spec) })
	if err != nil {
		return nil, rec, err
	}
	for _, pid := range pids {
		if p, err := d.open(pid, name(spec)); err == nil {
			return p, rec, nil
		}
	}
	return nil, rec, sys.ErrNoProcess
}

// open takes hold of the process if it is a VMM with the name.
func (d *Driver) open(pid int, want string) (*sys.Process, error) {
	p, err := sys.OpenProcess(pid)
	if err != nil {
		return nil, err
	}
	if nameOf(sys.Cmdline(pid)) != want {
		p.Close()
		return nil, sys.ErrNoProcess
	}
	return p, nil
}

// nameOf returns the name of a VMM from its arguments, "" for anything else.
func nameOf(args []string) string {
	for i := 0; i+1 < len(args) && i < 3; i++ {
		if args[i] == "-name" && strings.HasPrefix(args[i+1], namePrefix) {
			return args[i+1]
		}
	}
	return ""
}
