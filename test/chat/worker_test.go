package chat_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guest"
	"mvm/internal/guest/linux"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// Ports inside a worker.
const (
	hookPort  = 8787  // where OpenClaw takes messages
	apiPort   = 8081  // the gateway's Bot API
	modelPort = 18082 // the model's server
)

// shared is where a worker has the folder that it shares with the host, for sockets.
const shared = "/run/host"

// beWorker is PID 1 of a worker's namespaces.
func beWorker() error {
	if err := mountWorker(os.Getenv(dirEnv), os.Getenv(rootEnv), os.Getenv(diskEnv)); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	for _, way := range []struct {
		port   int
		socket string
	}{{apiPort, "api"}, {modelPort, "model"}} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", way.port))
		if err != nil {
			return err
		}
		go relay(l, func() (net.Conn, error) { return net.Dial("unix", filepath.Join(shared, way.socket)) }, nil)
	}
	in, err := listenUnix(filepath.Join(shared, "hook"))
	if err != nil {
		return err
	}
	go relay(in, func() (net.Conn, error) { return net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", hookPort)) }, nil)
	procs := workload.NewProcesses(true)
	go procs.Reap(context.Background())
	return serveGuest(filepath.Join(shared, "guest"), guest.Options{Processes: procs,
		System: machine{System: &linux.System{Init: true}, boot: fmt.Sprint(time.Now().UnixNano())},
		Paths:  guest.Paths{Services: "/run/services", Secrets: "/run/secrets", Config: "/etc/mvm-config", Run: "/run/mvm", Data: "/data", Etc: "/etc"}})
}

// serveGuest runs a guest agent on a unix socket until the process is killed.
func serveGuest(socket string, o guest.Options) error {
	o.Journal = workload.NewJournal()
	o.Log, o.Console = guest.NewLog(o.Journal, os.Stderr), os.Stderr
	a, err := guest.New(o)
	if err != nil {
		return err
	}
	l, err := listenUnix(socket)
	if err != nil {
		return err
	}
	return guest.ServeListener(context.Background(), l, a)
}

func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// mountWorker makes the image's root filesystem, writable for this boot only, the root, with
// the disk on /data.
func mountWorker(dir, rootfs, disk string) error {
	at := filepath.Join(dir, "root")
	all := func(calls ...func() error) error {
		for n, call := range calls {
			if err := call(); err != nil {
				return fmt.Errorf("make a worker's root, step %d: %w", n, err)
			}
		}
		return nil
	}
	mount := func(source, target, kind string, flags uintptr, data string) func() error {
		return func() error {
			if err := os.MkdirAll(target, 0o755); err != nil {
				return err
			}
			return unix.Mount(source, target, kind, flags, data)
		}
	}
	root := filepath.Join(at, "merged")
	return all(
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		mount("tmpfs", at, "tmpfs", 0, ""),
		func() error {
			return errors.Join(os.Mkdir(at+"/lower", 0o755), os.Mkdir(at+"/upper", 0o755), os.Mkdir(at+"/work", 0o755))
		},
		func() error { return exec.Command("mount", "-t", "erofs", "-o", "loop,ro", rootfs, at+"/lower").Run() },
		mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", at)),
		mount("/dev", root+"/dev", "", unix.MS_BIND|unix.MS_REC, ""),
		mount("tmpfs", root+"/run", "tmpfs", 0, ""),
		mount("tmpfs", root+"/tmp", "tmpfs", 0, "mode=1777"),
		mount(filepath.Join(dir, "shared"), root+shared, "", unix.MS_BIND, ""),
		func() error { return exec.Command("mount", "-o", "loop,noatime,commit=600", disk, root+"/data").Run() },
		func() error { return unix.Chroot(root) },
		func() error { return os.Chdir("/") },
		mount("proc", "/proc", "proc", 0, ""),
		func() error { return copyServices("/etc/mvm/services", "/run/services") },
		leaveOut,
	)
}

// After three kills within five minutes OpenClaw starts without its chats. forgetKills forgets
// them before it starts again: dozens of kills would take hours with that. countKills has them
// count, however long this machine takes between them.
const (
	forgetKills = "completed_at_ms = started_at_ms, outcome = 'mvm_host_stop'"
	countKills  = "started_at_ms = max(started_at_ms, unixepoch() * 1000 - 200000)"
	start       = `db=/data/openclaw/state/openclaw.sqlite
[ ! -f $db ] || /usr/local/bin/node -e "new (require('node:sqlite').DatabaseSync)('$db', { timeout: 5000 }).exec(
  \"UPDATE gateway_boot_lifecycle SET KILLS WHERE completed_at_ms IS NULL\")"
exec /opt/openclaw/start.sh
`
)

// leaveOut changes, for this boot, what OpenClaw's process does for mvm.
func leaveOut() error {
	if os.Getenv(breakEnv) != "chats" {
		return nil
	}
	const control = "/opt/openclaw/control.mjs"
	b, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	broken := bytes.Replace(b, []byte("const startsMost = 3;"), []byte("const startsMost = 0;"), 1)
	if bytes.Equal(b, broken) {
		return errors.New("there is no startsMost in " + control)
	}
	return os.WriteFile(control, broken, 0o644)
}

// copyServices takes the image's services but the one that reads its files in advance.
func copyServices(from, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	kills := forgetKills
	if os.Getenv(countEnv) != "" {
		kills = countKills
	}
	files, err := filepath.Glob(from + "/*.json")
	err = errors.Join(err, os.WriteFile(filepath.Join(to, "start.sh"), []byte(strings.Replace(start, "KILLS", kills, 1)), 0o755))
	for _, f := range files {
		if strings.Contains(f, "prefetch") {
			continue
		}
		b, readErr := os.ReadFile(f)
		b = bytes.Replace(b, []byte(`["/opt/openclaw/start.sh"]`), []byte(`["/bin/sh","`+to+`/start.sh"]`), 1)
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(to, filepath.Base(f)), b, 0o644))
	}
	return err
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// machine is the kernel of a guest that is no VM: disks and memory are looked after, and the
// clock, the network and random numbers are the host's.
type machine struct {
	*linux.System
	boot string
}

func (machine) SetClock(time.Time) error        { return nil }
func (machine) StepClock(time.Duration) error   { return nil }
func (machine) AddEntropy([]byte) error         { return nil }
func (machine) SetHostname(string) error        { return nil }
func (machine) SetNetwork(guestproto.Net) error { return nil }
func (machine) Announce() error                 { return nil }
func (machine) PowerOff() error                 { return errors.New("it is no machine") }
func (m machine) BootID() (string, error)       { return m.boot, nil }

// relay passes connections on until l is closed, and waits for them. seen is told of the
// first bytes each way; it may be nil.
func relay(l net.Listener, dial func() (net.Conn, error), seen func(answer bool)) {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		group.Go(func() {
			defer c.Close()
			to, err := dial()
			if err != nil {
				slog.Debug("relay", "error", err)
				return
			}
			defer to.Close()
			pass(c, to, seen)
		})
	}
}

// pass copies both ways until both have ended.
func pass(c, to net.Conn, seen func(answer bool)) {
	if seen == nil {
		seen = func(bool) {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&watched{to, func() { seen(false) }}, c)
		closeWrite(to)
	}()
	_, err := io.Copy(&watched{c, func() { seen(true) }}, to)
	closeWrite(c)
	if err != nil {
		_ = c.Close()
	}
	<-done
}

// watched tells of the first write.
type watched struct {
	io.Writer
	first func()
}

func (w *watched) Write(p []byte) (int, error) {
	if w.first != nil {
		w.first()
		w.first = nil
	}
	return w.Writer.Write(p)
}

func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}
