package vmproc

import (
	"context"
	"encoding/json"
	"os"
)

// Launcher starts VMMs of one kind beside finding and ending them, whoever asks: its caller
// may be on the other side of a socket, see package hostd. Each driver has its own, which
// reads the Spec of a Launch.
type Launcher interface {
	Host
	// Launch starts a VMM whose vCPUs do not run. It takes over no file: the caller
	// closes them. cgroups are the folders that Leave is to remove, made or not.
	// KindInvalid when the Launch or a file of it does not fit; after an error nothing
	// runs.
	Launch(ctx context.Context, l Launch) (p Process, cgroups []string, err error)
}

// Launch is a VMM that is to be started.
type Launch struct {
	Name
	UID    int    `json:"uid"` // the VMM runs as this user and group
	GID    int    `json:"gid"`
	Cgroup string `json:"cgroup"` // "mvm-<id>", or "" for none
	// Spec is all else, for the launcher alone: strict JSON.
	Spec json.RawMessage `json:"spec"`

	// Files are the VMM's open files, in the order that the launcher expects.
	Files []*os.File `json:"-"`
	// Owner is who opened the files, as the kernel says.
	Owner Owner `json:"-"`
}

// Owner is a user with its group.
type Owner struct{ UID, GID int }
