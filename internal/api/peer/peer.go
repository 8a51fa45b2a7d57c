// Package peer says who is at the other end of a unix socket, as the kernel knows it, and whether
// they may use the agent.
package peer

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"mvm"
)

// Peer is who is at the other end of a unix socket, as the kernel says, at the
// time of its connect.
type Peer struct {
	UID, GID, PID int
	Groups        []int // supplementary
}

// Of asks the kernel for the credentials of the socket's other end.
func Of(conn *net.UnixConn) (Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var p Peer
	var inner error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); inner != nil {
			return
		}
		p = Peer{UID: int(cred.Uid), GID: int(cred.Gid), PID: int(cred.Pid)}
		p.Groups, inner = groups(fd)
	})
	if err == nil {
		err = inner
	}
	return p, err
}

// groups returns the supplementary groups that the peer had when it connected.
// Unlike /proc/<pid>/status this can't be raced by a pid that is used again.
func groups(fd uintptr) ([]int, error) {
	gids := make([]uint32, 64)
	for {
		size := uint32(len(gids) * 4)
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&gids[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == syscall.ERANGE && int(size) > len(gids)*4 && size <= 65536*4:
			gids = make([]uint32, size/4)
		case errno != 0:
			return nil, os.NewSyscallError("getsockopt SO_PEERGROUPS", errno)
		default:
			all := make([]int, 0, size/4)
			for _, g := range gids[:size/4] {
				all = append(all, int(g))
			}
			return all, nil
		}
	}
}

// Allowed reports whether the peer may use the API: root, the agent's own user, or
// a member of the group (negative: no group).
func (p Peer) Allowed(group int) bool {
	if p.UID == 0 || p.UID == os.Geteuid() {
		return true
	}
	return group >= 0 && (p.GID == group || slices.Contains(p.Groups, group))
}

// Asker names the peer for the audit log.
func (p Peer) Asker() mvm.Asker {
	name := fmt.Sprintf("uid-%d", p.UID)
	if u, err := user.LookupId(strconv.Itoa(p.UID)); err == nil {
		name = u.Username
	}
	return mvm.Asker{Kind: mvm.AskerCLI, ID: name}
}

// Refusal is the error for a peer that is not allowed.
func (p Peer) Refusal(group int) error {
	err := mvm.Errorf(mvm.KindPolicy, "user %d may not use the agent", p.UID)
	if group < 0 {
		return err.WithFix("run as root")
	}
	name := strconv.Itoa(group)
	if g, lookup := user.LookupGroupId(name); lookup == nil {
		name = g.Name
	}
	return err.WithFix("run as root or join the group %s", name)
}
