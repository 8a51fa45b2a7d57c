// Package vmproc finds, lists, bounds and ends the processes of VMMs, of whatever kind. How a
// VMM is started is its driver's own (for QEMU package spawn).
//
// A VMM is found by what was noted of it, its number and start time; by its cgroup; and
// by its name among the processes that run its program, whose arguments have the name
// "mvm:<id>:<mark>:<RunDir>" somewhere that its driver knows. The mark says whose VMMs they
// are, where several agents run on a host, and is the Host's own: it takes on no other's. A
// VMM that was taken over can write other arguments, and its main thread can exit while
// others go on. It keeps its user and its cgroup, and these tell whose it is.
//
// It also reads and writes the memory of paused guests: of a VMM only that, and of no other
// process.
//
// Nothing here opens a file that a caller names, so that it can serve one that is not
// trusted, on the other side of a socket: see package hostd.
package vmproc

import (
	"context"
	"os"
	"slices"
	"strings"
	"syscall"

	"mvm"
	"mvm/internal/sys"
)

// Host finds and ends VMMs. Its methods may be called from many goroutines.
type Host interface {
	// Find takes hold of the VMM of the name; sys.ErrNoProcess when there is none.
	// The hint says where it was last, and may be wrong; its UID may not.
	Find(ctx context.Context, n Name, h Hint) (Process, error)
	// List returns the names of all VMMs that carry the Host's mark, with a RunDir right
	// below root.
	List(ctx context.Context, root string) ([]Name, error)
	// Survey looks at the host once for the VMMs of all instances.
	Survey(ctx context.Context) (Survey, error)
	// Walls says which walls around VMMs are missing on this host, and what bounds.
	Walls(ctx context.Context) ([]mvm.Finding, error)
	// Leave removes the cgroups of a VMM that is gone: those of the name, and further
	// ones that it is known to have had. What is still in them is ended. What is not
	// there is no error.
	Leave(ctx context.Context, n Name, cgroup string, cgroups []string) error
}

// Survey is what a look at the host found. No VMM is anywhere else: each is a process of
// its instance's user, and keeps the cgroup of its instance from going.
type Survey struct {
	Users   []int    `json:"users"`   // of instances, that have a process, whatever it runs; sorted
	Cgroups []string `json:"cgroups"` // ids of instances and probes that have a cgroup, of any mark; sorted
}

// Nothing reports that there is neither a process nor a cgroup of the instance with the
// user.
func (s Survey) Nothing(id string, uid int) bool {
	_, process := slices.BinarySearch(s.Users, uid)
	_, cgroup := slices.BinarySearch(s.Cgroups, id)
	return uid > 0 && !process && !cgroup
}

// Process is a hold on the process of one VMM. Its methods may be called from many
// goroutines.
type Process interface {
	// ID is the process's number, and its start time in clock ticks since the host's boot.
	ID() (pid int, start uint64)
	// Kill has the process ended at once, with all that is in its cgroup, and does not
	// wait for it; sys.ErrNoProcess when it is gone.
	Kill(ctx context.Context) error
	// Wait waits until it is gone. known says whether its status could be had.
	// Interrupt or Close end a Wait with an error.
	Wait() (code int, sig syscall.Signal, known bool, err error)
	Interrupt()
	// Refused says, once it is gone, for which system call its filter had it ended; "" for
	// none that is known.
	Refused() string
	Stats() (sys.ProcessStats, error)
	// LimitCPU changes how much CPU time it may take, from now on. KindInvalid for what no
	// cgroup takes; an error too where the host can't limit it.
	LimitCPU(ctx context.Context, c CPU) error
	// Memory opens the guest's memory. sys.ErrNoMapping where the VMM does not map it.
	Memory(ctx context.Context, g Guest) (Memory, error)
	// File returns a pidfd that is the caller's.
	File() (*os.File, error)
	// Close lets go of the process.
	Close() error
}

// Hint says which process a VMM was.
type Hint struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
	// UID is the user of the instance, 0: not known. No process of another is the VMM.
	UID int `json:"uid,omitempty"`
}

// Name is how a VMM is found.
type Name struct {
	ID     string `json:"id"`
	RunDir string `json:"run_dir"` // part of the name only, never opened here
}

// NamePrefix begins the name by which a VMM is found among all processes.
const NamePrefix = "mvm:"

// String is the name as it is in the arguments of a VMM without a mark.
func (n Name) String() string { return n.Marked("") }

// Marked is the name as it is in the arguments of a VMM with the mark.
func (n Name) Marked(mark string) string {
	if mark != "" {
		mark += ":"
	}
	return NamePrefix + n.ID + ":" + mark + n.RunDir
}

// parseName takes a VMM's name apart. The mark is empty in one that an older mvm
// started.
func parseName(s string) (n Name, mark string, ok bool) {
	id, rest, ok := strings.Cut(strings.TrimPrefix(s, NamePrefix), ":")
	if !strings.HasPrefix(rest, "/") {
		var more bool
		mark, rest, more = strings.Cut(rest, ":")
		ok = ok && more
	}
	n = Name{ID: id, RunDir: rest}
	return n, mark, ok && strings.HasPrefix(s, NamePrefix) && n.Check() == nil
}
