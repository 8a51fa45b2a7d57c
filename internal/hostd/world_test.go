package hostd_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/sys"
	"mvm/internal/testenv"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("MVM_TEST_HELLO"); path != "" {
		sayHello(path)
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// uid is the user of the VMMs.
const uid = 64_322

// world is a server for VMMs below a folder.
type world struct {
	t      testing.TB
	dir    string
	client *hostd.Client
	socket string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	testenv.NeedRoot(t)
	w := &world{t: t, dir: testenv.Dir(t)}
	testenv.NothingLeft(t, w.dir)
	w.client, w.socket = hostdtest.Serve(t, hostd.Options{Bounds: w.bounds()})
	return w
}

// vmms are the server's, as a driver asks for them.
func (w *world) vmms() spawn.Host { return spawn.Over(w.client.VMMs(spawn.Kind)) }

func (w *world) bounds() vmproc.Bounds {
	return vmproc.Bounds{RunRoot: filepath.Join(w.dir, "i"), ProbeRoot: filepath.Join(w.dir, "q"), FirstUID: uid, LastUID: uid + 10}
}

// launch is a VMM that takes a device state, with all that it needs; it runs no guest.
func (w *world) launch(id string) spawn.Launch {
	w.t.Helper()
	run := filepath.Join(w.dir, "i", id)
	must(w.t, os.MkdirAll(run, 0o700))
	l := spawn.Launch{Name: vmproc.Name{ID: id, RunDir: run}, UID: uid, GID: uid, Cgroup: "mvm-" + id, Accel: spawn.AccelTCG,
		VCPUs: 1, MemMiB: 16, Restore: true, Disks: []spawn.Disk{{Serial: "data"}}}
	l.Files = spawn.Files{Lock: w.file(id, "lock", os.O_RDWR), Log: w.log(run), Memory: w.file(id, "memory", os.O_RDWR),
		QMP: w.socketFile(id, "qmp"), Console: w.socketFile(id, "con"), Channel: w.socketFile(id, "chan"),
		Disks: []*os.File{w.file(id, "data", os.O_RDWR)}}
	must(w.t, l.Files.Memory.Truncate(16<<20))
	must(w.t, l.Files.Disks[0].Truncate(1<<20))
	return l
}

func (w *world) path(id, name string) string { return filepath.Join(w.dir, "i", id, name) }

func (w *world) log(run string) *os.File {
	w.t.Helper()
	var held *os.File
	must(w.t, sys.InFolder(run, func(d *sys.Folder) (err error) {
		held, err = d.MakePipe("log", -1)
		return err
	}))
	vmm, err := sys.PipeEnd(held, 16<<10)
	must(w.t, err)
	w.t.Cleanup(func() { _ = held.Close(); _ = vmm.Close() })
	return vmm
}

func (w *world) file(id, name string, mode int) *os.File {
	w.t.Helper()
	f, err := os.OpenFile(w.path(id, name), mode|os.O_CREATE, 0o600)
	must(w.t, err)
	w.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (w *world) socketFile(id, name string) *os.File {
	w.t.Helper()
	_ = os.Remove(w.path(id, name))
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: w.path(id, name), Net: "unix"})
	must(w.t, err)
	ln.SetUnlinkOnClose(false)
	defer ln.Close()
	f, err := ln.File()
	must(w.t, err)
	w.t.Cleanup(func() { _ = f.Close() })
	return f
}

// running counts the processes of the name.
func (w *world) running(n vmproc.Name) int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	count := 0
	for _, p := range lines {
		b, _ := os.ReadFile(p) // it may end meanwhile
		if args := strings.Split(string(b), "\x00"); strings.Contains(args[0], "qemu-system") && slices.ContainsFunc(args, func(a string) bool {
			return strings.HasPrefix(a, "mvm:"+n.ID+":") && strings.HasSuffix(a, ":"+n.RunDir)
		}) {
			count++
		}
	}
	return count
}

// gone waits until no VMM of the name runs.
func (w *world) gone(n vmproc.Name) {
	w.t.Helper()
	testenv.Eventually(w.t, time.Minute, func() error {
		if k := w.running(n); k > 0 {
			return fmt.Errorf("%d VMMs of %s run", k, n)
		}
		return nil
	})
}

// frame is a request as it is sent.
func frame(kind byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{hostd.Version, kind}, uint32(len(body))), body...)
}

func encoded(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return b
}

// raw sends bytes with files, and returns all that comes back until the server closes.
func (w *world) raw(b []byte, files ...*os.File) (answer []byte, took time.Duration) {
	w.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: w.socket, Net: "unix"})
	must(w.t, err)
	defer conn.Close()
	start := time.Now()
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, 0, len(files))
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		oob = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(b, oob, nil)
	if err == nil {
		_, _ = conn.Write(b[n:]) // it may have been refused already
	}
	must(w.t, conn.SetReadDeadline(start.Add(time.Minute)))
	var out bytes.Buffer
	if _, err := io.Copy(&out, io.LimitReader(conn, 1<<20)); err != nil && out.Len() == 0 {
		w.t.Fatalf("the server did not answer: %v", err)
	}
	return out.Bytes(), time.Since(start)
}
