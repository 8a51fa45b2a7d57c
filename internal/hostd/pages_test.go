package hostd_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/sys"
	"mvm/internal/testenv"
)

// The pages of a VMM's guest are read and written by the server: those alone, of that VMM
// alone, and through a file in memory. The file below the memory stays as it is.
func TestPages(t *testing.T) {
	w := newWorld(t)
	l := w.launch("i-00000008")
	p, _, err := w.vmms().Launch(t.Context(), l)
	must(t, err)
	defer p.Close()
	var st unix.Stat_t
	must(t, unix.Fstat(int(l.Files.Memory.Fd()), &st))
	guest := vmproc.Guest{Inode: st.Ino, Bytes: 16 << 20}
	var m vmproc.Memory
	testenv.Eventually(t, time.Minute, func() (err error) { // QEMU maps it when it has come so far
		m, err = p.Memory(t.Context(), guest)
		return err
	})
	defer m.Close()
	window := make([]byte, vmproc.MaxWindow)
	if runs, next, err := m.Changed(t.Context(), 0, vmproc.MaxChanged); err != nil || next != 4096 && len(runs) == 0 {
		t.Errorf("pages of a VMM that has not begun: %v, %d, %v", runs, next, err)
	}
	want := []sys.PageRun{{Page: 2000, Count: 2}, {Page: 4095, Count: 1}}
	data := bytes.Repeat([]byte("page"), 3*sys.PageSize/4)
	must(t, m.Write(t.Context(), want, data))
	runs, next, err := m.Changed(t.Context(), 2000, vmproc.MaxChanged)
	if err != nil || next != 4096 || !slices.Contains(runs, want[0]) || !slices.Contains(runs, want[1]) {
		t.Errorf("what was written: %v, %d, %v; want %v", runs, next, err, want)
	}
	if err := m.Read(t.Context(), want, window); err != nil || !bytes.HasPrefix(window, data) {
		t.Errorf("what was read is not what was written: %v", err)
	}
	b := make([]byte, 16<<20)
	if _, err := l.Files.Memory.ReadAt(b, 0); err != nil || !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("the file below the memory was changed: %v", err)
	}
	for _, g := range []vmproc.Guest{{Inode: guest.Inode, Bytes: 8 << 20}, {Inode: guest.Inode + 1, Bytes: guest.Bytes}} {
		if _, err := p.Memory(t.Context(), g); !errors.Is(err, sys.ErrNoMapping) {
			t.Errorf("memory %v: %v, want that it is not mapped", g, err)
		}
	}
	w.refusedPages(p, l.Name, guest)
	must(t, p.Kill(t.Context()))
	if _, _, _, err := p.Wait(); err != nil {
		t.Error(err)
	}
	if _, _, err := m.Changed(t.Context(), 0, 1); !errors.Is(err, sys.ErrNoProcess) {
		t.Errorf("pages of a VMM that is gone: %v", err)
	}
	must(t, w.vmms().Leave(t.Context(), l.Name, l.Cgroup, nil))
}

// VMMs may have one file in memory below their memory that is sealed: they get it as it is, and
// none can change it. What one writes to its memory is its own.
func TestSealedBase(t *testing.T) {
	w := newWorld(t)
	content := bytes.Repeat([]byte("base"), 4<<20)
	fd, err := unix.MemfdCreate("base", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	must(t, err)
	base := os.NewFile(uintptr(fd), "base")
	defer base.Close()
	_, err = base.Write(content)
	must(t, err)
	must(t, base.Chmod(0o666))
	launch := func(id string) (vmproc.Process, error) {
		l := w.launch(id)
		l.Files.Memory = base
		p, _, err := w.vmms().Launch(t.Context(), l)
		return p, err
	}
	_, err = unix.FcntlInt(base.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(int(base.Fd()), &st))
	var all []vmproc.Memory
	for n, id := range []string{"i-0000000a", "i-0000000b"} {
		p, err := launch(id)
		must(t, err)
		defer func() {
			must(t, p.Kill(t.Context()))
			_, _, _, _ = p.Wait()
			must(t, p.Close())
			must(t, w.vmms().Leave(t.Context(), vmproc.Name{ID: id, RunDir: filepath.Join(w.dir, "i", id)}, "mvm-"+id, nil))
		}()
		var m vmproc.Memory
		testenv.Eventually(t, time.Minute, func() (err error) {
			m, err = p.Memory(t.Context(), vmproc.Guest{Inode: st.Ino, Bytes: 16 << 20})
			return err
		})
		defer m.Close()
		must(t, m.Write(t.Context(), []sys.PageRun{{Page: 7, Count: 1}}, bytes.Repeat([]byte{byte(n)}, sys.PageSize)))
		all = append(all, m)
	}
	for n, m := range all {
		got := make([]byte, sys.PageSize)
		must(t, m.Read(t.Context(), []sys.PageRun{{Page: 7, Count: 1}}, got))
		if got[0] != byte(n) {
			t.Errorf("VMM %d has %d in its memory", n, got[0])
		}
	}
	var now unix.Stat_t
	must(t, unix.Fstat(int(base.Fd()), &now))
	if now.Uid != st.Uid || now.Mode != st.Mode {
		t.Errorf("the base was given to user %d, mode %o", now.Uid, now.Mode)
	}
	for what, err := range map[string]error{
		"write":    func() error { _, err := base.WriteAt([]byte("x"), 0); return err }(),
		"truncate": base.Truncate(0),
		"punch":    unix.Fallocate(int(base.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096),
		"unseal":   func() error { _, err := unix.FcntlInt(base.Fd(), unix.F_ADD_SEALS, 0x10); return err }(),
		"share": func() error {
			_, err := unix.Mmap(int(base.Fd()), 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED)
			return err
		}(),
	} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
	got := make([]byte, len(content))
	if _, err := base.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the base was changed: %v", err)
	}
}

// refusedPages asks for what no agent does.
func (w *world) refusedPages(p vmproc.Process, n vmproc.Name, g vmproc.Guest) {
	w.t.Helper()
	pid, start := p.ID()
	decoy := exec.CommandContext(w.t.Context(), "sleep", "600")
	must(w.t, decoy.Start())
	defer func() { _ = decoy.Process.Kill(); _ = decoy.Wait() }()
	fd, err := unix.MemfdCreate("pages", unix.MFD_CLOEXEC)
	must(w.t, err)
	memfd := os.NewFile(uintptr(fd), "pages")
	defer memfd.Close()
	onDisk := w.file(n.ID, "log", os.O_RDWR)
	body := func(hint vmproc.Hint, rest string) []byte {
		return fmt.Appendf(nil, `{"name":%s,"hint":%s,"guest":%s,%s}`, encoded(w.t, n), encoded(w.t, hint), encoded(w.t, g), rest)
	}
	own, other := vmproc.Hint{PID: pid, Start: start}, vmproc.Hint{PID: decoy.Process.Pid}
	if d, err := sys.OpenProcess(other.PID); err == nil {
		other.Start = d.Start
		must(w.t, d.Close())
	}
	for _, c := range []struct {
		what string
		op   byte
		body []byte
		file *os.File
		want string
	}{
		{"another process", hostd.OpChanged, body(other, `"from":0,"pages":1`), nil, "another process"},
		{"another start", hostd.OpChanged, body(vmproc.Hint{PID: pid, Start: start + 1}, `"from":0,"pages":1`), nil, "another process"},
		{"a list with a file", hostd.OpChanged, body(own, `"from":0,"pages":1`), memfd, "1 files"},
		{"too many to list", hostd.OpChanged, body(own, `"from":0,"pages":65537`), nil, "65537 from page 0"},
		{"fewer than none", hostd.OpChanged, body(own, `"from":0,"pages":-1`), nil, "-1 from page 0"},
		{"from before the first", hostd.OpChanged, body(own, `"from":-1,"pages":1`), nil, "from page -1"},
		{"from behind the last", hostd.OpChanged, body(own, `"from":4611686018427387904,"pages":1`), nil, `"next"`},
		{"an address", hostd.OpChanged, body(own, `"from":0,"pages":1,"base":4096`), nil, "unknown field"},
		{"pages without a file", hostd.OpRead, body(own, `"runs":[{"page":0,"count":1}]`), nil, "0 files"},
		{"too many pages", hostd.OpRead, body(own, `"runs":[{"page":0,"count":2049}]`), memfd, "more than 2048 pages"},
		{"to a file on disk", hostd.OpRead, body(own, `"runs":[{"page":0,"count":1}]`), onDisk, "the file that came"},
		{"to another process", hostd.OpRead, body(other, `"runs":[{"page":0,"count":1}]`), memfd, "another process"},
		{"a file on disk", hostd.OpWrite, body(own, `"runs":[{"page":0,"count":1}]`), onDisk, "the file that came"},
		{"a page behind the last", hostd.OpWrite, body(own, `"runs":[{"page":4096,"count":1}]`), memfd, "pages 4096+1"},
		{"a page before the first", hostd.OpWrite, body(own, `"runs":[{"page":-1,"count":1}]`), memfd, "pages -1+1"},
		{"a sum that wraps", hostd.OpWrite, body(own, `"runs":[{"page":1,"count":1},{"page":0,"count":9223372036854775807}]`), memfd, "more than 2048 pages"},
		{"a file that is too short", hostd.OpWrite, body(own, `"runs":[{"page":0,"count":2}]`), memfd, "the file that came"},
		{"no file", hostd.OpWrite, body(own, `"runs":[{"page":0,"count":1}]`), nil, "0 files"},
	} {
		var files []*os.File
		if c.file != nil {
			files = append(files, c.file)
		}
		must(w.t, memfd.Truncate(sys.PageSize))
		if got, _ := w.raw(frame(c.op, c.body), files...); !strings.Contains(string(got), c.want) {
			w.t.Errorf("%s: answered %.300q, want %q", c.what, got, c.want)
		}
	}
	if _, err := w.vmms().Find(w.t.Context(), n, own); err != nil && mvm.KindOf(err) != "" {
		w.t.Errorf("the VMM after that: %v", err)
	}
}
