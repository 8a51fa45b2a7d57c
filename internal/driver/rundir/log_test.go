package rundir_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mvm/internal/driver/rundir"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// made is a new log in a folder of its own.
func made(t *testing.T) (dir string, vmm *os.File, l *rundir.Log) {
	t.Helper()
	dir = t.TempDir()
	vmm, l, err := rundir.MakeLog(dir)
	must(t, err)
	t.Cleanup(func() { l.Close(); vmm.Close() })
	return dir, vmm, l
}

func say(t *testing.T, vmm *os.File, words string) {
	t.Helper()
	_, err := vmm.WriteString(words + "\n")
	must(t, err)
}

// What a VMM said is there while it runs, for each who looks, and after its end for who holds
// its log.
func TestLogOutlivesItsVMM(t *testing.T) {
	dir, vmm, l := made(t)
	if got := l.Tail(); got != "" {
		t.Errorf("it said %q before it said anything", got)
	}
	say(t, vmm, "it begins")
	other := rundir.OpenLog(dir)
	defer other.Close()
	l.Close() // the agent ends, and another one comes
	say(t, vmm, "it goes on")
	must(t, vmm.Close())
	for range 2 {
		if got, want := other.Tail(), "it begins it goes on"; got != want {
			t.Errorf("it said %q, want %q", got, want)
		}
	}
	must(t, os.Remove(filepath.Join(dir, rundir.LogFile)))
	if rundir.OpenLog(dir).Tail() != "" {
		t.Error("a log that is not there has words")
	}
}

// A VMM that says without end is not held up, fills nothing, and its beginning is told. What it
// says after room was made is told, too.
func TestLogIsBounded(t *testing.T) {
	dir, vmm, l := made(t)
	say(t, vmm, "the beginning")
	raw, err := vmm.SyscallConn()
	must(t, err)
	block, wrote := bytes.Repeat([]byte("noise and "), 6000), 0
	flood := func() {
		must(t, raw.Control(func(fd uintptr) {
			for range 1000 { // it would hang here if it blocked
				n, err := syscall.Write(int(fd), block)
				if err != nil && !errors.Is(err, syscall.EAGAIN) {
					t.Fatal(err)
				}
				wrote += max(n, 0)
			}
		}))
	}
	flood()
	if wrote > 64<<10 {
		t.Errorf("it holds %d bytes", wrote)
	}
	var st syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(dir, rundir.LogFile), &st))
	if st.Size != 0 || st.Blocks != 0 {
		t.Errorf("its file has %d bytes in %d blocks", st.Size, st.Blocks)
	}
	if got := l.Tail(); len(got) > 1024 || !strings.Contains(got, "noise") {
		t.Errorf("it said %q", got)
	}
	for n := range 5 {
		l.Trim()
		last := fmt.Sprint("word ", n)
		say(t, vmm, last)
		if got := l.Tail(); !strings.HasSuffix(got, last) {
			t.Errorf("it said %q, want %q at the end", got, last)
		}
		if n%2 == 0 {
			flood()
		}
	}
}

// A log that is not full keeps all.
func TestTrimSparesWhatFits(t *testing.T) {
	_, vmm, l := made(t)
	say(t, vmm, "one warning")
	l.Trim()
	if got := l.Tail(); got != "one warning" {
		t.Errorf("it said %q", got)
	}
}

// Nobody who listens is no signal, and no wait.
func TestNobodyListens(t *testing.T) {
	_, vmm, l := made(t)
	l.Close()
	say(t, vmm, "to nobody")
	if l.Tail() != "" {
		t.Error("a closed log has words")
	}
	l.Trim()
	l.Close()
}

// VMMs that an older version started write to a file.
func TestLogOfAnOlderVersion(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, rundir.LogFile), []byte(strings.Repeat("old words\n", 10_000)+"the last"), 0o600))
	l := rundir.OpenLog(dir)
	defer l.Close()
	if got := l.Tail(); len(got) > 1024 || !strings.HasSuffix(got, "old words the last") {
		t.Errorf("it said %q", got)
	}
	l.Trim()
	vmm, next, err := rundir.MakeLog(dir) // of the next VMM
	must(t, err)
	defer next.Close()
	defer vmm.Close()
	say(t, vmm, "new")
	if got := next.Tail(); got != "new" {
		t.Errorf("it said %q", got)
	}
}

// A link in the log's place leads nowhere.
func TestLinkInPlaceOfTheLog(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(t.TempDir(), "other")
	must(t, os.WriteFile(other, []byte("of another"), 0o600))
	must(t, os.Symlink(other, filepath.Join(dir, rundir.LogFile)))
	if got := rundir.OpenLog(dir).Tail(); got != "" {
		t.Errorf("it read %q", got)
	}
	vmm, l, err := rundir.MakeLog(dir)
	must(t, err)
	say(t, vmm, "mine")
	l.Close()
	vmm.Close()
	if b, err := os.ReadFile(other); err != nil || string(b) != "of another" {
		t.Errorf("the other file has %q, %v", b, err)
	}
}
