package rundir

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// Record is vmm.json: which process is the VMM. It is written once the process
// exists, and removed when it is gone.
type Record struct {
	Version int      `json:"version"`          // of this format: 1
	Driver  string   `json:"driver,omitempty"` // that started it; "": qemu, which older versions did not write
	ID      string   `json:"id"`
	PID     int      `json:"pid"`
	Start   uint64   `json:"start_ticks"` // /proc/PID/stat, field 22
	BootID  string   `json:"boot_id"`     // of the host
	Cgroups []string `json:"cgroups,omitempty"`
	TAP     string   `json:"tap,omitempty"`
	Memory  string   `json:"memory"`
	// Own is what the driver itself notes.
	Own json.RawMessage `json:"own,omitempty"`
}

// The files in RunDir that every driver has.
const (
	LockFile   = "vmm.lock"
	RecordFile = "vmm.json"
	LogFile    = "vmm.log"
)

// maxRecord bounds vmm.json.
const maxRecord = 64 << 10

// RecordOf is the record of a process that was just started, but for what the driver notes.
func RecordOf(id string, p vmproc.Process) (Record, error) {
	boot, err := sys.HostBootID()
	if err != nil {
		return Record{}, mvm.Errorf(mvm.KindInternal, "read the host's boot id: %w", err)
	}
	pid, start := p.ID()
	return Record{Version: 1, ID: id, PID: pid, Start: start, BootID: boot}, nil
}

// ReadRecord reads the record in the folder. It may be wrong.
func ReadRecord(runDir string) (Record, error) {
	var r Record
	var b []byte
	err := sys.InFolder(runDir, func(d *sys.Folder) (err error) {
		b, err = d.ReadFile(RecordFile, maxRecord)
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

// Write replaces vmm.json whole. It need not outlive the host's boot: no fsync.
func (r Record) Write(runDir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = sys.InFolder(runDir, func(d *sys.Folder) error { return d.WriteFile(RecordFile, b, false) })
	return mvm.Explain("record the VMM", err)
}

func noFolder(runDir string, err error) error {
	return mvm.Errorf(mvm.KindInvalid, "look at the run dir %s: it is no folder: %w", runDir, err)
}

func locked(f *os.File) error {
	return mvm.Errorf(mvm.KindState, "lock %s: the instance already has a VMM", f.Name())
}

func ofOther(id, driver, own string) error {
	return mvm.Errorf(mvm.KindState, "recover the VMM of %s: the driver %s started it, and this is %s", id, driver, own).
		WithFix("stop the instances with the driver that started them before you change it: set driver = %q, restart the agent, and run %s",
			driver, fmt.Sprintf("`mvm instance stop %s`", id))
}
