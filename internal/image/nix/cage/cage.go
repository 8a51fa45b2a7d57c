// Package cage runs programs of strangers in a place of their own: new network, PID, mount,
// IPC and UTS namespaces, a root in memory of a fixed size, a user that owns nothing on the
// host, and a cgroup that bounds memory and processes.
//
// # Who is in it
//
// The first process of the cage is this executable again, as root without the rights of root:
// it may change to the cage's user and end processes, and no more. It starts one command at a
// time as that user, passes on what it says, and ends all that it left running. When it ends,
// the kernel ends every process of the cage and takes its mounts and its memory away. It ends
// when the other end of its standard input is closed, so nothing of a cage outlives the
// process that has started it.
//
// # All or nothing
//
// A cage stands whole or not at all: what the host does not have is an error of KindPolicy
// that names the piece.
package cage

import (
	"fmt"
	"os"
	"time"

	"mvm"
)

// Config is what a cage is made of.
type Config struct {
	// Disk is the size of the root, in bytes, and of the largest file. Inodes is how many
	// files it may have.
	Disk   int64
	Inodes int64
	// Memory is what the processes may use beside the files, in bytes.
	Memory int64
	// Processes bounds processes and threads.
	Processes int
	// Files bounds the open files of one process.
	Files int
	// Within ends the cage, whoever waits for it.
	Within time.Duration
	// Show are files and folders of the host that it has, read-only, at their own paths. What
	// is not there is left out.
	Show []string
	// Binds are files and folders of the host, which have to be there, read-only, by their
	// path in the cage.
	Binds map[string]string
	// Texts are small files, by path.
	Texts map[string]string
	// Own are folders that the cage's user may write to.
	Own []string
	// Log is told of each line that commands write to standard error, without its end, and
	// clipped to 64 KiB. It is called one at a time, and until Close has returned. An error
	// ends the cage.
	Log func(line []byte) error
}

// Command is what is run in a cage, as its user, without standard input.
type Command struct {
	Path string   `json:"path"` // in the cage; Self is this executable
	Args []string `json:"args"` // with argv[0]
	Env  []string `json:"env"`
}

// Self is the Path of this executable.
const Self = "/proc/self/exe"

// Piece is a part of a cage that this host does not have.
type Piece struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// refused is the error of a cage that can't be built.
func refused(p Piece) error {
	return mvm.Errorf(mvm.KindPolicy, "build a cage for Nix: %s: %s", p.Name, p.Text).WithFix("%s", p.fix())
}

func (p Piece) fix() string {
	switch p.Name {
	case pieceRoot:
		return "run the agent as root, not through mvm hostd"
	case pieceCgroup:
		return "mount cgroups with the memory and pids controllers, and delegate them to the agent (Delegate=yes, DelegateSubgroup=mvm-self in its unit)"
	case pieceUsers:
		return "let users make user namespaces: sysctl user.max_user_namespaces above 0, and kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0 where the host has these"
	}
	return "give the agent CAP_SYS_ADMIN and CAP_NET_ADMIN on the host, outside of containers that restrict mounts and namespaces"
}

// The pieces, by the name that people are told.
const (
	pieceRoot   = "root"
	pieceCgroup = "cgroup"
	pieceSpaces = "namespaces"
	pieceNet    = "network of its own"
	pieceMount  = "root of its own"
	pieceLimits = "resource limits"
	pieceRights = "giving up rights"
	pieceUsers  = "user namespaces of an unprivileged user"
)

// firstUser is the number from which the users of cages are: past those that systemd gives to
// containers (up to 1879048191), and before those that no kernel takes. A cage's user is that
// and the number of its first process, so that no other cage of the host has it.
const firstUser = 1879048192

// groupPrefix begins the names of the cgroups of cages: the number of the process that has
// started it, and of its first process, follow.
const groupPrefix = "mvm-nix-"

func groupName(first int) string { return fmt.Sprintf("%s%d-%d", groupPrefix, os.Getpid(), first) }
