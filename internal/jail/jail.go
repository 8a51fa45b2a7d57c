// Package jail starts a program behind walls: it may be taken over by whoever it serves.
//
// # Who builds the walls
//
// A process of the same executable, started as a helper, builds them around itself and then
// becomes the program, so the program runs not one instruction outside. main has to call
// RunChild before anything else. The helper gets its order over a socket, waits until its
// parent has put it into a cgroup, and reports over the socket what it could not build.
//
// # The walls
//
// Each Wall stands alone: where one can't be had, the others are built. A caller for whom
// all of them have to stand sets Jail.Required, and the program does not start without.
//
// # System calls
//
// The list of calls is the program's own (Calls). A call that is not on it makes the kernel ask the
// parent, who remembers the call and ends the program; when the parent is gone, the call
// fails with ENOSYS. A call that the kernel of the list's time did not have fails with
// ENOSYS too, as it would on that kernel.
package jail

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Wall is one of the walls, by the name that people give it.
type Wall string

// The walls.
const (
	Network      Wall = "network-namespace" // no interface, and no abstract socket of others
	Mount        Wall = "mount-namespace"   // a root that has the program's files, read-only
	PID          Wall = "pid-namespace"     // it sees no process but its own
	IPC          Wall = "ipc-namespace"
	UTS          Wall = "uts-namespace"
	Cgroup       Wall = "cgroup-namespace"
	Keyring      Wall = "keyring"      // a session keyring of its own
	Rlimits      Wall = "rlimits"      // no core, bounds on files, processes and locked memory
	Capabilities Wall = "capabilities" // none, none to be had, and no new privileges
	Landlock     Wall = "landlock"     // a second wall around files, and around TCP and signals
	Seccomp      Wall = "seccomp"      // the system calls of its list, and no other
)

// Walls are all walls, in the order in which they are built.
func Walls() []Wall {
	return []Wall{PID, Network, IPC, UTS, Cgroup, Mount, Keyring, Rlimits, Capabilities, Landlock, Seccomp}
}

// Lack is a wall that could not be built.
type Lack struct {
	Wall  Wall          `json:"wall"`
	Text  string        `json:"text"`            // what was tried, and what came of it
	Errno syscall.Errno `json:"errno,omitempty"` // 0: none
}

// Fix says what to do about it.
func (l Lack) Fix() string {
	switch {
	case l.Errno == syscall.ENOSPC:
		return "raise the sysctl user.max_*_namespaces"
	case l.Errno == syscall.EPERM || l.Errno == syscall.EACCES:
		return "run what starts VMMs (mvm hostd, or the agent that is root) with CAP_SYS_ADMIN and CAP_SETPCAP, and without RestrictNamespaces= or a filter of system calls that forbids it"
	case l.Wall == Landlock:
		return "boot a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in its list of security modules (lsm=)"
	case l.Wall == Seccomp:
		return "use a kernel with CONFIG_SECCOMP_FILTER, 5.0 or later, on x86-64"
	case l.Wall == Mount:
		return "use a kernel of version 5.12 or later"
	}
	return "use a kernel that has it, 5.12 or later"
}

// Missing makes one text of what lacks.
func Missing(lacks []Lack) string {
	var all []string
	for _, l := range lacks {
		all = append(all, fmt.Sprintf("%s: %s", l.Wall, l.Text))
	}
	return strings.Join(all, "; ")
}

// Program is what is to run. It sees Files under their numbers, and no other.
type Program struct {
	Path   string // absolute, and in Root
	Args   []string
	Env    []string
	Files  []*os.File
	UID    int
	GID    int
	Groups []int
	// Root has the files and folders of the host that it can read, under their own paths.
	Root []string
	// Devices are those that it can open for reading and writing.
	Devices []string
	Limits  []Limit
	Calls   Calls
	// Enter puts its process into a cgroup, before it runs. Its error ends the start.
	Enter func(pid int) error
}

// Limit is a resource limit, hard and soft.
type Limit struct {
	Resource int    `json:"resource"`
	Value    uint64 `json:"value"`
}

// Jail starts programs. The zero value builds no wall, and starts them itself.
type Jail struct {
	// On: it builds all walls but those in Without.
	On      bool
	Without []Wall
	// Required refuses to start a program without one of them.
	Required bool
	// Learn, where it is there, is told each call that no condition is about, or that meets
	// none, and all are let through: to make a list. For tests.
	Learn func(call string)
}

// walls are those that it is to build.
func (j Jail) walls() []Wall {
	if !j.On {
		return nil
	}
	return slices.DeleteFunc(Walls(), func(w Wall) bool { return slices.Contains(j.Without, w) })
}
