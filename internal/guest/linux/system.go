package linux

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guest"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// System is the running kernel.
type System struct {
	// Init: this is PID 1 and owns the machine.
	Init bool
	// PowerOffCommand is run by PowerOff where this is not PID 1.
	PowerOffCommand []string
	// Processes starts PowerOffCommand.
	Processes *workload.Processes

	mu     sync.Mutex
	host   string         // as set last
	net    guestproto.Net // as set last
	nic    net.Interface  // that has it
	bootID string         // once read
	// urandom is open for as long as the process lives.
	urandom *os.File
}

var _ guest.System = (*System)(nil)

// SetHostname sets the host name and, as PID 1, writes /etc/hosts so that it and
// localhost resolve.
func (s *System) SetHostname(name string) error {
	if len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" {
		return mvm.Errorf(mvm.KindInvalid, "set host name: %q is not a host name", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == s.host {
		return nil
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return mvm.Errorf(mvm.KindInternal, "set host name: %w", err)
	}
	s.host = name
	return s.writeHosts()
}

// HostName is the name by which guests find their host, at the tenant's gateway
// address.
const HostName = "host.mvm.internal"

// writeHosts makes localhost, the machine's own name and its host resolve, as PID 1.
func (s *System) writeHosts() error {
	if !s.Init {
		return nil
	}
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	if s.host != "" {
		hosts += "127.0.1.1 " + s.host + "\n"
	}
	if s.net.Gateway.IsValid() {
		hosts += s.net.Gateway.String() + " " + HostName + "\n"
	}
	return replaceText("/etc/hosts", hosts)
}

// HoldsSecrets checks that the folder's file system is in memory.
func (s *System) HoldsSecrets(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return mvm.Errorf(mvm.KindInternal, "check %s: %w", dir, err)
	}
	if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		return mvm.Errorf(mvm.KindState, "secrets must not reach a disk, and %s is not a tmpfs", dir).
			WithFix("mount a tmpfs there before the guest agent starts")
	}
	return nil
}

// Sync writes all that is dirty to the disks.
func (s *System) Sync() { unix.Sync() }

// SyncFolder makes what was written to the folder's file system durable.
func (s *System) SyncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "sync %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return mvm.Errorf(mvm.KindInternal, "sync the file system of %s: %w", dir, err)
	}
	return nil
}

// unmountTimeout bounds the wait for killed processes to let go of the data disk.
const unmountTimeout = 2 * time.Second

// PowerOff kills what still runs, unmounts the data disk and powers off, or runs
// PowerOffCommand.
func (s *System) PowerOff() error {
	unix.Sync()
	if !s.Init {
		return s.askPowerOff()
	}
	_ = unix.Kill(-1, unix.SIGKILL) // all but PID 1; there may be none
	unmountErr := detach("/data")
	unix.Sync()
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	if b, err := os.ReadFile("/proc/cmdline"); err == nil && offByReset(string(b)) {
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	}
	err := unix.Reboot(cmd)
	return errors.Join(mvm.Errorf(mvm.KindInternal, "power off: %w", err), unmountErr)
}

// offByReset reports that the machine has no power switch, and its VMM ends when it resets.
func offByReset(line string) bool { return cmdline(line, "mvm.poweroff") == "reboot" }

// detach unmounts, or makes read-only what is in use.
func detach(dir string) error {
	err := unix.Unmount(dir, 0)
	for deadline := time.Now().Add(unmountTimeout); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
		err = unix.Unmount(dir, 0)
	}
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // unmounted, or never was
	}
	if roErr := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); roErr != nil {
		return mvm.Errorf(mvm.KindInternal, "unmount %s: %w", dir, errors.Join(err, roErr))
	}
	return nil
}

func (s *System) askPowerOff() error {
	if len(s.PowerOffCommand) == 0 {
		return mvm.Errorf(mvm.KindState, "power off: not PID 1, and no command is set for it")
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	proc, err := s.Processes.Start(workload.Command{Argv: s.PowerOffCommand, Env: os.Environ(), Dir: "/",
		User: workload.User{UID: os.Getuid(), GID: os.Getgid()}, Files: [3]*os.File{null, null, null}})
	if err != nil {
		return err
	}
	select {
	case <-proc.Done():
	case <-time.After(30 * time.Second):
		return mvm.Errorf(mvm.KindTimeout, "power off: %s does not end", s.PowerOffCommand[0])
	}
	if proc.Code() != 0 {
		return mvm.Errorf(mvm.KindInternal, "power off: %s exited with code %d", s.PowerOffCommand[0], proc.Code())
	}
	return nil
}

// replaceText puts a new file in the place of the path, unless it holds the text
// already.
func replaceText(path, text string) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, []byte(text)) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return mvm.Errorf(mvm.KindInternal, "write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "write %s: %w", path, err)
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// Outlasts returns an error where what is written to the folder is gone with the machine.
func Outlasts(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil && !errors.Is(err, unix.ENOENT) {
		return mvm.Errorf(mvm.KindInternal, "look at %s: %w", dir, err)
	} else if err == nil && st.Type != unix.TMPFS_MAGIC && st.Type != unix.OVERLAYFS_SUPER_MAGIC && st.Type != unix.RAMFS_MAGIC {
		return nil
	}
	return mvm.Errorf(mvm.KindState, "the gateway has no data disk at %s", dir).
		WithFix("set data_disk_mib of its pool and restart it")
}
