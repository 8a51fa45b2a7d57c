package vm_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/testenv/inject"
)

// call is one system call.
func call(nr uint64, args ...any) func(*inject.Thread) error {
	return func(th *inject.Thread) error {
		_, err := th.Call(nr, args...)
		return err
	}
}

// opened opens the file, and does something with it.
func opened(path string, flags int, more ...func(th *inject.Thread, fd uint64) error) func(*inject.Thread) error {
	return func(th *inject.Thread) error {
		fd, err := th.Call(unix.SYS_OPEN, path, flags, 0o666)
		for _, f := range more {
			if err == nil {
				err = f(th, fd)
			}
		}
		if err == nil {
			_, err = th.Call(unix.SYS_CLOSE, fd)
		}
		return err
	}
}

// connected connects to the unix socket; "@" begins an abstract name.
func connected(path string, more ...func(th *inject.Thread, fd uint64) error) func(*inject.Thread) error {
	return func(th *inject.Thread) error {
		fd, err := th.Call(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		addr := binary.LittleEndian.AppendUint16(nil, unix.AF_UNIX)
		if name, ok := strings.CutPrefix(path, "@"); ok {
			addr = append(append(addr, 0), name...)
		} else {
			addr = append(append(addr, path...), 0)
		}
		_, err = th.Call(unix.SYS_CONNECT, fd, addr, len(addr))
		for _, f := range more {
			if err == nil {
				err = f(th, fd)
			}
		}
		_, cerr := th.Call(unix.SYS_CLOSE, fd)
		return errors.Join(err, cerr)
	}
}

// planted puts a link to the target in the path's place.
func planted(path, target string) func(*inject.Thread) error {
	return func(th *inject.Thread) error {
		if _, err := th.Call(unix.SYS_UNLINK, path); err != nil && !errors.Is(err, unix.ENOENT) {
			if _, err := th.Call(unix.SYS_RENAME, path, path+".old"); err != nil { // a folder
				return err
			}
		}
		_, err := th.Call(unix.SYS_SYMLINK, target, path)
		return err
	}
}

// actions are all that is tried, but for what needs more around it.
func (b *box) actions() []action {
	all := append(b.reads(), b.changes()...)
	all = append(all, b.processes()...)
	all = append(all, b.ownFolders()...)
	all = append(all, b.plants()...)
	return append(all, b.powers()...)
}

// of is a file of the other tenant's, or of the host.
func (b *box) of(parts ...string) string {
	return filepath.Join(append([]string{b.host.data}, parts...)...)
}

// reads are what the VMM must not read, nor connect to.
func (b *box) reads() []action {
	otherData, otherRun := b.of("instances", b.other), filepath.Join(b.dir, "r", "i", b.other)
	var all []action
	for _, p := range []string{filepath.Join(b.root, "file"), "/etc/shadow", b.of("state.db"), filepath.Join(b.dir, "k"), filepath.Join(b.dir, "agent.log"),
		filepath.Join(otherData, "memory"), filepath.Join(otherData, "data.img"), filepath.Join(otherData, "console.log"),
		filepath.Join(otherRun, "vmm.json"), otherData, otherRun, filepath.Join(otherData, "snapshots"), filepath.Join(otherData, "segments"), b.of("instances"), filepath.Join(b.dir, "r", "i"), b.host.data} {
		all = append(all, action{name: "read " + b.short(p), do: opened(p, unix.O_RDONLY), forbidden: true})
	}
	sockets := []string{filepath.Join(b.dir, "s")}
	for _, name := range []string{"qmp.sock", "chan.sock", "con.sock", "v.sock", "v.sock_53"} {
		sockets = append(sockets, filepath.Join(otherRun, name))
	}
	if b.split != nil {
		sockets = append(sockets, b.split.config().Socket)
	}
	for _, p := range sockets {
		all = append(all, action{name: "connect to " + b.short(p), do: connected(p), forbidden: true})
	}
	return all
}

// short is the path as the table shows it.
func (b *box) short(p string) string {
	for from, to := range map[string]string{b.root: "ROOT", b.dir: "HOST", b.id: "OWN", b.other: "OTHER"} {
		p = strings.ReplaceAll(p, from, to)
	}
	if b.split != nil {
		p = strings.ReplaceAll(p, b.split.dir, "HOSTD")
	}
	return p
}

// changes are what the VMM must not change.
func (b *box) changes() []action {
	file, disk := filepath.Join(b.root, "file"), b.of("instances", b.other, "data.img")
	var all []action
	add := func(name string, nr uint64, args ...any) {
		all = append(all, action{name: name, do: call(nr, args...), forbidden: true})
	}
	for _, p := range []string{file, disk, b.of("state.db"), filepath.Join(b.dir, "k")} {
		all = append(all, action{name: "write " + b.short(p), do: opened(p, unix.O_RDWR), forbidden: true})
		add("truncate "+b.short(p), unix.SYS_TRUNCATE, p, 0)
		add("remove "+b.short(p), unix.SYS_UNLINK, p)
		add("chmod "+b.short(p), unix.SYS_CHMOD, p, 0o777)
		add("chown "+b.short(p), unix.SYS_CHOWN, p, os.Getuid(), 0)
	}
	for _, dir := range []string{b.root, b.host.data, b.of("instances"), b.of("instances", b.other), b.dir, filepath.Join(b.dir, "r"),
		filepath.Join(b.dir, "r", "i"), filepath.Join(b.dir, "r", "i", b.other)} {
		p := filepath.Join(dir, "made")
		all = append(all, action{name: "create in " + b.short(dir), do: opened(p, unix.O_CREAT|unix.O_WRONLY), forbidden: true})
		add("link in "+b.short(dir), unix.SYS_SYMLINK, file, p)
	}
	add("rename its folder", unix.SYS_RENAME, b.data, b.data+".old")
	add("rename its run dir", unix.SYS_RENAME, b.run, b.run+".old")
	add("rename the other's folder", unix.SYS_RENAME, b.of("instances", b.other), b.of("instances", b.other+".old"))
	add("hard link to root's file", unix.SYS_LINK, file, filepath.Join(b.data, "link"))
	add("hard link to the other's disk", unix.SYS_LINK, disk, filepath.Join(b.data, "link"))
	return all
}

// ownFolders are what the VMM may do to its own, as far as it can: it changes nothing.
func (b *box) ownFolders() []action {
	all := []action{
		{name: "chmod its folder", do: call(unix.SYS_CHMOD, b.data, 0o777)},
		{name: "chmod its run dir", do: call(unix.SYS_CHMOD, b.run, 0o777)},
		{name: "chmod its memory", do: onOwn("/memory", func(th *inject.Thread, fd uint64) error {
			_, err := th.Call(unix.SYS_FCHMOD, fd, 0o6777)
			return err
		})},
		{name: "chown its memory to root", do: onOwn("/memory", func(th *inject.Thread, fd uint64) error {
			_, err := th.Call(unix.SYS_FCHOWN, fd, 0, 0)
			return err
		}), forbidden: true},
		{name: "chmod its disk", do: onOwn("/data.img", func(th *inject.Thread, fd uint64) error {
			_, err := th.Call(unix.SYS_FCHMOD, fd, 0o6777)
			return err
		})},
		{name: "write the image", do: onOwn("/images/", func(th *inject.Thread, fd uint64) error {
			_, err := th.Call(unix.SYS_OPEN, fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR, 0)
			return err
		}), forbidden: true},
		{name: "give up its lock", do: onOwn("/vmm.lock", func(th *inject.Thread, fd uint64) error {
			_, err := th.Call(unix.SYS_FLOCK, fd, unix.LOCK_UN)
			return err
		}), then: []func(){b.restart, b.execute}},
	}
	for _, dir := range []string{b.data, b.run} {
		p := filepath.Join(dir, "made")
		all = append(all,
			action{name: "create in " + b.short(dir), do: opened(p, unix.O_CREAT|unix.O_WRONLY), then: []func(){b.restart, b.coldStart}, spoils: true},
			action{name: "mkfifo in " + b.short(dir), do: call(unix.SYS_MKNOD, p, unix.S_IFIFO|0o666, 0), then: []func(){b.restart, b.coldStart}, spoils: true},
			action{name: "device in " + b.short(dir), do: call(unix.SYS_MKNOD, p, unix.S_IFBLK|0o666, 0x800), forbidden: true},
		)
	}
	return all
}

// onOwn does something with a file that the VMM has open and whose path holds the part.
func onOwn(part string, f func(th *inject.Thread, fd uint64) error) func(*inject.Thread) error {
	return func(th *inject.Thread) error {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", th.PID()))
		for _, p := range fds {
			var fd uint64
			if to, rerr := os.Readlink(p); rerr != nil || !strings.Contains(to, part) {
				continue
			}
			if _, err := fmt.Sscan(filepath.Base(p), &fd); err != nil {
				return err
			}
			return f(th, fd)
		}
		return errors.Join(err, fmt.Errorf("the VMM has no %s open: %w", part, unix.EBADF))
	}
}

// plants are links where the agent opens, makes, removes or dials something.
func (b *box) plants() []action {
	file, folder, otherRun := filepath.Join(b.root, "file"), filepath.Join(b.root, "folder"), filepath.Join(b.dir, "r", "i", b.other)
	var all []action
	add := func(dir, name, target string, then ...func()) {
		all = append(all, action{name: name + " -> " + b.short(target), do: planted(filepath.Join(dir, name), target), then: then, spoils: true})
	}
	add(b.data, "data.img", file, b.sleepWake, b.coldStart)
	add(b.data, "data.img", b.of("instances", b.other, "data.img"), b.sleepWake, b.coldStart)
	add(b.data, "data.img.new", file, b.coldStart)
	all = append(all, action{name: "no data.img, data.img.new -> ROOT/file", do: func(th *inject.Thread) error {
		if _, err := th.Call(unix.SYS_UNLINK, filepath.Join(b.data, "data.img")); err != nil {
			return err
		}
		return planted(filepath.Join(b.data, "data.img.new"), file)(th)
	}, then: []func(){b.coldStart}, spoils: true})
	add(b.data, "snapshots", folder, b.restart, b.sleepWake)
	add(b.data, "set-aside", folder, b.gc, b.sleepWake)
	add(b.data, "segments", folder, b.sleepWake)
	add(b.data, "segments", b.of("instances", b.other, "segments"), b.sleepWake)
	add(b.data, "previous", folder, b.sleepWake)
	add(b.data, "console.log", filepath.Join(folder, "made"), b.coldStart, b.execute)
	add(b.data, "console.log", file, b.restart, b.execute)
	add(b.data, "memory", b.of("instances", b.other, "memory"), b.sleepWake)
	add(b.data, "memory", file, b.sleepWake)
	for _, name := range []string{"chan.sock", "qmp.sock", "con.sock"} {
		add(b.run, name, filepath.Join(otherRun, name), b.restart, b.execute)
	}
	add(b.run, "v.sock", filepath.Join(otherRun, "v.sock"), b.restart, b.execute)
	add(b.run, "v.sock.new", file, b.restart)
	add(b.run, "v.sock_53", filepath.Join(b.dir, "s"), b.restart)
	add(b.run, "vmm.json", filepath.Join(otherRun, "vmm.json"), b.restart)
	add(b.run, "vmm.lock", file, b.coldStart)
	add(b.run, "vmm.log", file, b.coldStart)
	all = append(all, action{name: "vmm.json that names the other's VMM", do: b.falseRecord, then: []func(){b.restart}, spoils: true})
	return all
}

// falseRecord says that the other's VMM is this instance's.
func (b *box) falseRecord(th *inject.Thread) error {
	rec, err := os.ReadFile(filepath.Join(b.dir, "r", "i", b.other, "vmm.json"))
	if err != nil {
		return err
	}
	p := filepath.Join(b.run, "vmm.json")
	if _, err := th.Call(unix.SYS_UNLINK, p); err != nil {
		return err
	}
	return opened(p, unix.O_CREAT|unix.O_WRONLY, func(th *inject.Thread, fd uint64) error {
		_, err := th.Call(unix.SYS_WRITE, fd, rec, len(rec))
		return err
	})(th)
}

// processes are what the VMM must not do to others.
func (b *box) processes() []action {
	var all []action
	add := func(name string, nr uint64, args ...any) {
		all = append(all, action{name: name, do: call(nr, args...), forbidden: true})
	}
	type process struct {
		who string
		pid int
	}
	others := []process{{"the agent", b.agent.Process.Pid}, {"the other's VMM", b.vmm(b.other)}}
	if b.split != nil {
		others = append(others, process{"hostd", b.split.hostd.Process.Pid})
	}
	for _, p := range others {
		who, pid := p.who, p.pid
		add("kill "+who, unix.SYS_KILL, pid, int(unix.SIGKILL))
		add("ptrace "+who, unix.SYS_PTRACE, unix.PTRACE_SEIZE, pid, 0, 0)
		all = append(all, action{name: "read memory of " + who, do: readMemory(pid), forbidden: true})
		for _, name := range []string{"mem", "environ", "maps", "fd/0", "root/etc", "cwd/."} {
			all = append(all, action{name: "open " + name + " of " + who, do: opened(fmt.Sprintf("/proc/%d/%s", pid, name), unix.O_RDONLY), forbidden: true})
		}
		all = append(all, action{name: "take a file of " + who, do: func(th *inject.Thread) error {
			fd, err := th.Call(unix.SYS_PIDFD_OPEN, pid, 0)
			if err == nil {
				_, err = th.Call(unix.SYS_PIDFD_GETFD, fd, 3, 0)
			}
			return err
		}, forbidden: true})
	}
	return all
}

// readMemory reads the first bytes of whatever the process runs.
func readMemory(pid int) func(*inject.Thread) error {
	return func(th *inject.Thread) error {
		const size = 64
		at, err := th.Put(make([]byte, size))
		if err != nil {
			return err
		}
		_, err = th.Call(unix.SYS_PROCESS_VM_READV, pid, words(at, size), 1, words(0x400000, size), 1, 0)
		return err
	}
}

// powers are rights that the VMM must not get. Some of these end it.
func (b *box) powers() []action {
	all := []action{
		{name: "attach to the other's TAP", do: opened("/dev/net/tun", unix.O_RDWR, func(th *inject.Thread, fd uint64) error {
			ifr := make([]byte, 40)
			copy(ifr, mvm.TAPName(42, b.offset(b.other)))
			binary.LittleEndian.PutUint16(ifr[16:], unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR)
			_, err := th.Call(unix.SYS_IOCTL, fd, unix.TUNSETIFF, ifr)
			return err
		}), forbidden: true},
	}
	add := func(name string, nr uint64, args ...any) {
		all = append(all, action{name: name, do: call(nr, args...), forbidden: true})
	}
	add("chroot", unix.SYS_CHROOT, "/tmp")
	add("a user namespace", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	add("setuid", unix.SYS_SETUID, 0)
	add("execve", unix.SYS_EXECVE, "/bin/sh", 0, 0)
	add("fork", unix.SYS_FORK)
	return all
}

func (b *box) offset(id string) int { return b.get(id).Offset }
