// Package durable sees in the system calls of a process whether what it wrote would
// outlive a crash of the host. A crash of the process can't show that: what was written
// is there, whether it was synced or not.
//
// The rules are those of file systems. The content of a file is durable once it was synced
// after the last write to it. A name is durable once its folder was synced after it was
// made. Content must be durable before it is given a final name by rename or link: else a
// crash leaves the name with nothing behind it.
package durable

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/testenv"
)

// calls are the system calls that change what is on a disk, or make it durable. A name
// after ? need not be there on this architecture.
const calls = "trace=?open,openat,?openat2,?creat,write,pwrite64,writev,pwritev,?pwritev2,copy_file_range,sendfile,splice," +
	"ftruncate,truncate,fallocate,fsync,fdatasync,syncfs,sync,?rename,renameat,renameat2,?link,linkat,?symlink,symlinkat,?mkdir,mkdirat,?unlink,unlinkat,?rmdir"

// patience is how long strace may take to begin, and to write what it saw.
const patience = 30 * time.Second

// Exception is what need not be durable.
type Exception struct {
	Path string // a pattern of filepath.Match, relative to the root
	Why  string
}

// Watch is the trace of one process and of those that it starts.
type Watch struct {
	root   string
	log    string
	except []Exception
	strace *exec.Cmd
	there  map[string]bool // when it began
	told   map[string]bool // what the test has been told of
}

func begin(t testing.TB, root string, except []Exception) *Watch {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("it takes strace to see what is synced: run scripts/setup --test: %v", err)
	}
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		t.Fatal(err)
	}
	w := &Watch{root: root, log: filepath.Join(t.TempDir(), "strace"), except: except, there: map[string]bool{}, told: map[string]bool{}}
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		w.there[path] = true
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Command makes a command that is watched, and that the caller starts. Below the root,
// which must be there, its changes count.
func Command(t testing.TB, root string, except []Exception, name string, args ...string) (*Watch, *exec.Cmd) {
	t.Helper()
	w := begin(t, root, except)
	// With -D the command is the process that the caller starts, and strace stands beside it.
	return w, exec.Command("strace", append([]string{"-D", "-f", "-y", "-qq", "-e", "signal=none", "-e", calls, "-o", w.log, "--", name}, args...)...)
}

// Self watches this process while fn runs, and checks what fn did below the root.
func Self(t testing.TB, root string, except []Exception, fn func()) *Watch {
	t.Helper()
	w := begin(t, root, except)
	w.attach(t)
	fn()
	if err := errors.Join(w.strace.Process.Signal(syscall.SIGTERM), ended(w.strace.Wait())); err != nil {
		t.Fatal(err)
	}
	w.Check(t, "at the end")
	return w
}

// ended is how strace ends that was told to.
func ended(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

func (w *Watch) attach(t testing.TB) {
	t.Helper()
	w.strace = exec.Command("strace", "-f", "-y", "-e", "signal=none", "-e", calls, "-o", w.log, "-p", strconv.Itoa(os.Getpid()))
	said := filepath.Join(t.TempDir(), "said")
	f, err := os.Create(said)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w.strace.Stderr = f
	if err := w.strace.Start(); err != nil {
		t.Fatal(err)
	}
	// Where a process may be traced by its parents only, it can name who else may.
	_ = unix.Prctl(unix.PR_SET_PTRACER, uintptr(w.strace.Process.Pid), 0, 0, 0)
	testenv.Eventually(t, patience, func() error {
		b, err := os.ReadFile(said)
		if err == nil && !bytes.Contains(b, []byte("attached")) {
			err = fmt.Errorf("strace has not attached: %s", b)
		}
		return err
	})
}

// Check fails the test where something would not outlive a crash of the host now, or would
// not have before. Of what the process does unasked it waits for the end.
func (w *Watch) Check(t testing.TB, when string) {
	t.Helper()
	var m *model
	end := time.Now().Add(2 * time.Second)
	for {
		m = w.read(t)
		if m.left() == nil || time.Now().After(end) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, p := range append(m.early, m.left()...) {
		if !w.told[p] {
			t.Errorf("%s: %s", when, p)
		}
		w.told[p] = true
	}
}

// Changes is how many changes below the root were seen.
func (w *Watch) Changes(t testing.TB) int { return w.read(t).changes }

// Syncs is how often the file or folder was synced.
func (w *Watch) Syncs(t testing.TB, path string) int { return w.read(t).syncs[path] }

func (w *Watch) read(t testing.TB) *model {
	t.Helper()
	f, err := os.Open(w.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := &model{root: w.root, except: w.except, there: map[string]bool{}, content: map[string]string{}, names: map[string]string{}, syncs: map[string]int{}}
	for path := range w.there {
		m.there[path] = true
	}
	open := map[string]string{} // by process, the beginning of a call
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		pid, text, ok := strings.Cut(lines.Text(), " ")
		text = strings.TrimSpace(text)
		if !ok {
			continue
		}
		if start, ok := strings.CutSuffix(text, " <unfinished ...>"); ok {
			open[pid] = start
			continue
		}
		if strings.HasPrefix(text, "<... ") {
			_, rest, _ := strings.Cut(text, " resumed>")
			text = open[pid] + rest
			delete(open, pid)
		}
		if c, ok := parse(text); ok {
			m.apply(c)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return m
}

// left is what is not durable.
func (m *model) left() (problems []string) {
	for path, call := range m.content {
		problems = append(problems, fmt.Sprintf("the content of %s is not durable: nothing synced it after %s", path, call))
	}
	for path, call := range m.names {
		problems = append(problems, fmt.Sprintf("the name %s is not durable: nothing synced its folder after %s", path, call))
	}
	slices.Sort(problems)
	return problems
}
