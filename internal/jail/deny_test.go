package jail_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"mvm/internal/jail"
)

// deny has the kernel refuse, to this process and those that it starts, what the wall needs,
// as a host does that lacks it.
func deny(w jail.Wall) error {
	type rule struct {
		nr    uint32
		mask  uint32 // of the first argument; 0: whatever it is
		value uint32
		errno uint32
	}
	namespace := func(flag uint32) rule { return rule{unix.SYS_UNSHARE, flag, flag, uint32(unix.ENOSPC)} }
	r, ok := map[jail.Wall]rule{
		jail.Network: namespace(unix.CLONE_NEWNET), jail.IPC: namespace(unix.CLONE_NEWIPC), jail.UTS: namespace(unix.CLONE_NEWUTS),
		jail.Cgroup: namespace(unix.CLONE_NEWCGROUP), jail.PID: {unix.SYS_CLONE, unix.CLONE_NEWPID, unix.CLONE_NEWPID, uint32(unix.ENOSPC)},
		jail.Mount:   {unix.SYS_PIVOT_ROOT, 0, 0, uint32(unix.EPERM)},
		jail.Keyring: {unix.SYS_KEYCTL, 0, 0, uint32(unix.ENOSYS)},
		jail.Rlimits: {unix.SYS_PRLIMIT64, 0, 0, uint32(unix.EPERM)}, jail.Capabilities: {unix.SYS_PRCTL, ^uint32(0), unix.PR_CAPBSET_DROP, uint32(unix.EPERM)},
		jail.Landlock: {unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, uint32(unix.EOPNOTSUPP)},
		jail.Seccomp:  {unix.SYS_SECCOMP, ^uint32(0), unix.SECCOMP_SET_MODE_FILTER, uint32(unix.EINVAL)},
	}[w]
	if !ok {
		return fmt.Errorf("nothing is known of %s", w)
	}
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	prog := []unix.SockFilter{
		stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: r.nr, Jf: 4},
		stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 16), stmt(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, r.mask),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: r.value, Jf: 1}, stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|r.errno),
		stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW),
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("refuse calls: %w", errno)
	}
	return nil
}

// enterCgroup puts the process into a cgroup of the test's.
func enterCgroup(t *testing.T) func(pid int) error {
	t.Helper()
	for _, tree := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		dir := filepath.Join(tree, "mvm-test-jail-"+strconv.Itoa(os.Getpid()))
		if _, err := os.Stat(filepath.Join(tree, "cgroup.procs")); err != nil {
			continue
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		return func(pid int) error {
			return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		}
	}
	t.Fatal("there is no cgroup tree")
	return nil
}
