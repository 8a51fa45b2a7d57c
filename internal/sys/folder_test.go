package sys_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/sys"
)

const stranger = 54321

// outside is a folder that nothing may touch, and the folder that is worked in.
func outside(t *testing.T) (out, dir string, check func()) {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "folder") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	out, dir = filepath.Join(base, "out"), filepath.Join(base, "dir")
	for _, p := range []string{out, filepath.Join(out, "full"), dir} {
		if err := os.Mkdir(p, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"file", "full/kept"} {
		if err := os.WriteFile(filepath.Join(out, p), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(out, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Error("somebody connected to the socket outside")
			c.Close()
		}
	}()
	return out, dir, func() {
		t.Helper()
		for _, p := range []string{"file", "full/kept"} {
			b, err := os.ReadFile(filepath.Join(out, p))
			st, serr := os.Stat(filepath.Join(out, p))
			if err != nil || serr != nil || string(b) != "precious" || st.Mode().Perm() != 0o600 || st.Sys().(*syscall.Stat_t).Uid != 0 {
				t.Errorf("outside, %s is %q, %v, %v: it was touched", p, b, st, err)
			}
		}
		names, err := os.ReadDir(out)
		if err != nil || len(names) != 3 {
			t.Errorf("outside there are %v, %v, want file, full and sock", names, err)
		}
	}
}

// plants puts something foreign at the path.
func plants(out string) map[string]func(path string) error {
	return map[string]func(path string) error{
		"link to a file":     func(p string) error { return os.Symlink(filepath.Join(out, "file"), p) },
		"link to a folder":   func(p string) error { return os.Symlink(filepath.Join(out, "full"), p) },
		"link to a socket":   func(p string) error { return os.Symlink(filepath.Join(out, "sock"), p) },
		"link to a new file": func(p string) error { return os.Symlink(filepath.Join(out, "new"), p) },
		"pipe":               func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"hard link":          func(p string) error { return os.Link(filepath.Join(out, "file"), p) },
		"socket's hard link": func(p string) error { return os.Link(filepath.Join(out, "sock"), p) },
		"stranger's file": func(p string) error {
			return errors.Join(os.WriteFile(p, []byte("hers"), 0o666), os.Chown(p, stranger, stranger))
		},
		"stranger's folder": func(p string) error {
			return errors.Join(os.Mkdir(p, 0o777), os.Chown(p, stranger, stranger))
		},
	}
}

// Nothing foreign is followed, opened, waited for or changed, whatever is done with
// its name.
func TestFolderKeepsToItself(t *testing.T) {
	for do, op := range map[string]func(d *sys.Folder) error{
		"open to read":  func(d *sys.Folder) error { return opened(d.Open("x", os.O_RDONLY)) },
		"open to write": func(d *sys.Folder) error { return opened(d.Open("x", os.O_RDWR)) },
		"append":        func(d *sys.Folder) error { return opened(d.Append("x")) },
		"read":          func(d *sys.Folder) error { _, err := d.ReadFile("x", 100); return err },
		"size":          func(d *sys.Folder) error { _, _, err := d.Size("x"); return err },
		"take":          func(d *sys.Folder) error { return d.Take("x", 99) },
		"dial": func(d *sys.Folder) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			c, err := d.Dial(ctx, "x", sys.Peer{})
			if err == nil {
				c.Close()
			}
			return err
		},
		"sub":      func(d *sys.Folder) error { _, err := d.Sub("x"); return err },
		"make sub": func(d *sys.Folder) error { _, err := d.MakeSub("x"); return err },
		// These take the name away, or move what it names.
		"remove":     func(d *sys.Folder) error { return done(d.Remove("x")) },
		"remove all": func(d *sys.Folder) error { return done(d.RemoveAll("x")) },
		"create": func(d *sys.Folder) error {
			f, err := d.Create("x")
			if err == nil {
				_, err = io.WriteString(f, "mine")
				f.Close()
			}
			return done(err)
		},
		"write":  func(d *sys.Folder) error { return done(d.WriteFile("x", []byte("mine"), false)) },
		"rename": func(d *sys.Folder) error { return done(d.Rename("x", d, "y")) },
		"replace": func(d *sys.Folder) error {
			return done(errors.Join(d.WriteFile("y", []byte("mine"), true), d.Rename("y", d, "x")))
		},
		"listen": func(d *sys.Folder) error {
			l, err := d.Listen("x")
			if err == nil {
				l.Close()
			}
			return done(err)
		},
		"measure": func(d *sys.Folder) error { d.Bytes(); return sys.ErrForeign },
	} {
		t.Run(do, func(t *testing.T) {
			for what := range plants("") {
				out, dir, check := outside(t)
				if err := plants(out)[what](filepath.Join(dir, "x")); err != nil {
					t.Fatal(err)
				}
				d, err := sys.OpenFolder(dir)
				if err != nil {
					t.Fatal(err)
				}
				if err := op(d); !errors.Is(err, sys.ErrForeign) {
					t.Errorf("%s of a %s: %v, want that it is foreign", do, what, err)
				} else if err != sys.ErrForeign && (!mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), filepath.Join(dir, "x")) || fix(err) == "") { //nolint:errorlint // the bare error stands for an operation that says nothing
					t.Errorf("%s of a %s: %v: it has no path or no fix, or is no refusal", do, what, err)
				}
				d.Close()
				check()
			}
		})
	}
}

func opened(f *os.File, err error) error {
	if err == nil {
		f.Close()
	}
	return err
}

// done is for what may be done with a foreign name: only a folder in the way is refused.
func done(err error) error {
	if err == nil || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EEXIST) {
		return sys.ErrForeign
	}
	return err
}

func fix(err error) string {
	var e *mvm.Error
	errors.As(err, &e)
	return e.Fix
}

func TestFolderItself(t *testing.T) {
	_, dir, _ := outside(t)
	for what, plant := range map[string]func(p string) error{
		"a link":            func(p string) error { return os.Symlink(dir, p) },
		"a file":            func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"a pipe":            func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"a stranger's":      func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chown(p, stranger, stranger)) },
		"others may write":  func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chmod(p, 0o777)) },
		"a link to nothing": func(p string) error { return os.Symlink("/nowhere", p) },
	} {
		p := filepath.Join(dir, strings.ReplaceAll(what, " ", "-"))
		if err := plant(p); err != nil {
			t.Fatal(err)
		}
		if d, err := sys.OpenFolder(p); !errors.Is(err, sys.ErrForeign) {
			t.Errorf("%s: got %v, %v, want that it is foreign", what, d, err)
		}
		if d, _, err := sys.OpenParent(dir, filepath.Join(p, "x")); !errors.Is(err, sys.ErrForeign) {
			t.Errorf("parent is %s: got %v, %v, want that it is foreign", what, d, err)
		}
	}
	if _, err := sys.OpenFolder(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// A name is one name: no path, and nothing that leads out.
func TestFolderNames(t *testing.T) {
	out, dir, check := outside(t)
	d, err := sys.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, name := range []string{"", ".", "..", "../out/file", "a/b", "/etc/passwd", "a\x00b"} {
		_, err1 := d.Open(name, os.O_RDONLY)
		_, err2 := d.Create(name)
		_, err3 := d.Sub(name)
		_, err4 := d.Listen(name)
		for _, err := range []error{err1, err2, err3, err4, d.Remove(name), d.RemoveAll(name), d.Rename(name, d, "y"), d.Rename("y", d, name)} {
			if !mvm.IsKind(err, mvm.KindInternal) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q: %v, want it refused", name, err)
			}
		}
	}
	_ = out
	check()
}

func TestFolderRemovesDeepTrees(t *testing.T) {
	out, dir, check := outside(t)
	var rlim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rlim); err != nil {
		t.Fatal(err)
	}
	const depth = 3000
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for i := 0; err == nil && i < depth; i++ { // deeper than a path can be
		var next int
		if err = errors.Join(unix.Mkdirat(at, "d", 0o700), unix.Symlinkat(out, at, "out")); err == nil {
			next, err = unix.Openat(at, "d", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		unix.Close(at)
		at = next
	}
	unix.Close(at)
	if err != nil {
		t.Fatal(err)
	}
	d, err := sys.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	before := openFiles(t)
	if err := errors.Join(d.RemoveAll("d"), d.RemoveAll("out"), d.RemoveAll("none")); err != nil {
		t.Error(err)
	}
	if names, err := d.Names(); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
	if now := openFiles(t); now != before {
		t.Errorf("%d files are open, %d before", now, before)
	}
	check()
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// Trees beside each other go at the same time, and so do those that a process was killed
// over, whatever its number was.
func TestFolderRemovesTreesAtOnce(t *testing.T) {
	_, dir, _ := outside(t)
	tree := func(name string) {
		t.Helper()
		path := filepath.Join(dir, name, "a", "b")
		if err := errors.Join(os.MkdirAll(path, 0o700), os.WriteFile(filepath.Join(path, "file"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	d, err := sys.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	left := fmt.Sprintf(".trash-%d-0", os.Getpid())
	tree(left)
	var wg sync.WaitGroup
	for n := range 50 {
		name := fmt.Sprint("tree", n)
		tree(name)
		wg.Go(func() {
			if err := d.RemoveAll(name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if err := d.RemoveAll(left); err != nil {
		t.Errorf("%s: %v", left, err)
	}
	if names, err := d.Names(); err != nil || len(names) > 0 {
		t.Errorf("left: %q, %v", names, err)
	}
}

// TestRemovalThatFails: whichever step of the removal of a tree fails, the next call removes
// what is left, and nothing has moved to where nobody looks for it.
func TestRemovalThatFails(t *testing.T) {
	_, dir, _ := outside(t)
	d, err := sys.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	defer sys.SeamFolders(nil)
	for n, failed := 0, true; failed; n++ {
		for _, sub := range []string{"a/b/c", "a/d", "e"} {
			path := filepath.Join(dir, "tree", sub)
			if err := errors.Join(os.MkdirAll(path, 0o700), os.WriteFile(filepath.Join(path, "file"), nil, 0o600), os.Chmod(path, 0o777)); err != nil {
				t.Fatal(err)
			}
		}
		seen := 0
		sys.SeamFolders(func(_ sys.FolderOp, path string) error {
			if !strings.HasPrefix(path, dir) {
				return nil
			}
			if seen++; seen == n+1 {
				return unix.EIO
			}
			return nil
		})
		err := d.RemoveAll("tree")
		failed = seen > n
		sys.SeamFolders(nil)
		if failed != errors.Is(err, unix.EIO) {
			t.Errorf("step %d: %v, failed on purpose: %v", n, err, failed)
		}
		if names, err := d.Names(); err != nil || len(names) > 1 || len(names) == 1 && names[0] != "tree" {
			t.Fatalf("step %d: %q is left, %v; want the tree at most", n, names, err)
		}
		if err := d.RemoveAll("tree"); err != nil {
			t.Fatalf("step %d, again: %v", n, err)
		}
		if names, err := d.Names(); err != nil || len(names) > 0 {
			t.Fatalf("step %d, again: %q is left, %v", n, names, err)
		}
	}
}

func TestFolderSockets(t *testing.T) {
	_, dir, check := outside(t)
	deep := filepath.Join(dir, strings.Repeat("a-long-name/", 20))
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := sys.OpenFolder(deep)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := d.Listen("s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st, err := os.Stat(filepath.Join(deep, "s")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v, want 0600", st, err)
	}
	for _, p := range []sys.Peer{{}, {UID: stranger}, {PID: os.Getpid()}, {UID: stranger, PID: 1}, {Self: true}} { // this process may always
		c, err := d.Dial(t.Context(), "s", p)
		if err != nil {
			t.Errorf("dial, with peer %+v: %v", p, err)
			continue
		}
		c.Close()
	}
	if _, err := d.Dial(t.Context(), "none", sys.Peer{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a socket that is not there: %v", err)
	}
	l.Close()
	if _, err := d.Dial(t.Context(), "s", sys.Peer{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a socket on which nobody listens: %v", err)
	}
	check()
}

func TestTakeFolder(t *testing.T) {
	_, dir, check := outside(t)
	p := filepath.Join(dir, "i-1")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(p, 0o700))
	for _, name := range []string{"hers", "theirs"} {
		must(os.WriteFile(filepath.Join(p, name), []byte(name), 0o600))
	}
	must(os.Chown(filepath.Join(p, "hers"), stranger, stranger))
	must(os.Chmod(filepath.Join(p, "hers"), 0o4755))
	must(os.Chown(filepath.Join(p, "theirs"), stranger+1, stranger))
	must(os.Chown(p, stranger, stranger))
	must(os.Chmod(p, 0o777))
	if _, _, err := sys.TakeFolder(p, stranger+1); !errors.Is(err, sys.ErrForeign) {
		t.Errorf("the folder of another user: %v", err)
	}
	d, taken, err := sys.TakeFolder(p, stranger)
	if err != nil || !taken {
		t.Fatalf("got %v, %v, want it taken", taken, err)
	}
	defer d.Close()
	if err := d.Take("theirs", stranger); !errors.Is(err, sys.ErrForeign) {
		t.Errorf("another user's file: %v", err)
	}
	must(d.Take("hers", stranger))
	for path, mode := range map[string]os.FileMode{p: os.ModeDir | 0o700, filepath.Join(p, "hers"): 0o600} {
		st, err := os.Stat(path)
		if err != nil || st.Mode() != mode || st.Sys().(*syscall.Stat_t).Uid != 0 || st.Sys().(*syscall.Stat_t).Gid != 0 {
			t.Errorf("%s is %v, %+v, %v, want %v of root", path, st.Mode(), st.Sys(), err, mode)
		}
	}
	again, taken, err := sys.TakeFolder(p, stranger)
	if err != nil || taken {
		t.Fatalf("the second time: %v, %v", taken, err)
	}
	again.Close()
	check()
}

func TestFolderReadIsBounded(t *testing.T) {
	_, dir, _ := outside(t)
	d, err := sys.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.WriteFile("x", []byte(strings.Repeat("x", 101)), false); err != nil {
		t.Fatal(err)
	}
	if b, err := d.ReadFile("x", 101); err != nil || len(b) != 101 {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	if _, err := d.ReadFile("x", 100); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("one byte too many: %v", err)
	}
	if _, alloc, err := d.Size("x"); err != nil || alloc == 0 || d.Bytes() != alloc {
		t.Errorf("it takes %d bytes, the folder %d: %v", alloc, d.Bytes(), err)
	}
}
