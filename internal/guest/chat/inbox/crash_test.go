package inbox_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mvm/internal/guest/chat/inbox"
	"mvm/internal/testenv"
)

// writerEnv makes the test binary a writer on the file that it names.
const writerEnv = "MVM_INBOX_TEST_WRITER"

// writeUntilKilled puts messages of several chats at once, delivers some and sets some
// aside. It prints what it begins to give up, and then each id that is kept.
func writeUntilKilled(path string) int {
	b, err := inbox.Open(path, inbox.Options{Log: slog.New(slog.DiscardHandler), Limits: inbox.Limits{Chat: 50, Known: 100}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var out sync.Mutex
	say := func(word, id string) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(word, id)
	}
	run := fmt.Sprint(time.Now().UnixNano())
	for chat := range 4 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%06d", run, chat, i)
				m := message(fmt.Sprint("c", chat), id)
				m.Body = []byte(strings.Repeat(id, 1+i%200))
				switch v, err := b.Put(m); {
				case err != nil:
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				case v[0] == inbox.Kept:
					say("kept", id)
				}
				if i%3 != 0 {
					continue
				}
				all := b.Entries("hook")
				e := all[rand.IntN(len(all))]
				say("ends", e.ID)
				if i%9 == 0 {
					err = b.SetAside(e.Number, "no")
				} else {
					err = b.Done(e.Number)
				}
				if err != nil && !strings.Contains(err.Error(), "has no message") {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
			}
		}()
	}
	select {}
}

// writer is a process that writes to an inbox.
type writer struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
	dog *time.Timer
}

func startWriter(t *testing.T, path string) *writer {
	t.Helper()
	w := &writer{t: t, cmd: exec.Command(os.Args[0])}
	w.cmd.Env = append(os.Environ(), writerEnv+"="+path)
	w.cmd.Stderr = os.Stderr
	pipe, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.out = bufio.NewReader(pipe)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.dog = time.AfterFunc(time.Minute, func() { _ = w.cmd.Process.Kill() })
	return w
}

// read takes n lines; n < 0: all until the process is gone.
func (w *writer) read(n int, kept, ends map[string]bool) {
	w.t.Helper()
	for ; n != 0; n-- {
		line, err := w.out.ReadString('\n')
		if n < 0 && errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			w.t.Fatalf("the writer ended by itself: %v", err)
		}
		word, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "kept" {
			kept[id] = true
		} else {
			ends[id] = true
		}
	}
}

// stop stops the process and waits until it is in no system call any more.
func (w *writer) stop() {
	w.t.Helper()
	if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	testenv.Eventually(w.t, time.Minute, func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", w.cmd.Process.Pid))
		for _, task := range tasks {
			stat, readErr := os.ReadFile(task)
			if _, after, ok := strings.Cut(string(stat), ") "); !ok || after[0] != 'T' {
				return errors.Join(readErr, fmt.Errorf("%s: %s", task, stat))
			}
		}
		return err
	})
}

func (w *writer) kill() {
	w.dog.Stop()
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

// check opens the file and looks for all that was kept and not given up.
func check(t *testing.T, when, path string, kept, ends map[string]bool) {
	t.Helper()
	b, err := inbox.Open(path, inbox.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	defer b.Close()
	if b.Damage() != "" {
		t.Fatalf("%s: %s", when, b.Damage())
	}
	there, last, order := map[string]bool{}, int64(0), map[string]string{}
	for _, e := range b.Entries("") {
		there[e.ID] = true
		body, err := b.Body(e.Number)
		if err != nil || !strings.HasPrefix(string(body), e.ID) || len(body)%len(e.ID) != 0 {
			t.Errorf("%s: body of %s: %d bytes, %v", when, e.ID, len(body), err)
		}
		if e.Number <= last || order[e.Chat] >= e.ID {
			t.Errorf("%s: %s of chat %s is number %d, after %s and number %d", when, e.ID, e.Chat, e.Number, order[e.Chat], last)
		}
		last, order[e.Chat] = e.Number, e.ID
	}
	lost := 0
	for id := range kept {
		if !there[id] && !ends[id] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%s: %d of %d messages are lost", when, lost, len(kept))
	}
}

// TestKilledWriterLosesNothing kills a process that writes, again and again on one file.
func TestKilledWriterLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	kept, ends := map[string]bool{}, map[string]bool{}
	for round := range 12 {
		w := startWriter(t, path)
		w.read(10+rand.IntN(120), kept, ends)
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // anywhere in a write
		_ = w.cmd.Process.Kill()
		w.read(-1, kept, ends) // what it said before
		w.kill()
		check(t, "round "+strconv.Itoa(round), path, kept, ends)
	}
	t.Logf("%d messages were kept", len(kept))
}

// TestPowerLossLosesNothing looks at a disk as it would be had the power gone: what nobody
// synced is in no copy of it.
func TestPowerLossLosesNothing(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	disk, at := filepath.Join(dir, "disk"), filepath.Join(dir, "at")
	run(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=1", disk, "48M")
	mount := func(disk string) {
		t.Helper()
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		run(t, "mount", "-o", "loop,noatime,commit=600", disk, at)
	}
	mount(disk)
	mounted := true
	defer func() {
		if mounted {
			run(t, "umount", at)
		}
	}()
	kept, ends := map[string]bool{}, map[string]bool{}
	w := startWriter(t, filepath.Join(at, "inbox.db"))
	type moment struct {
		disk string
		kept map[string]bool
	}
	var moments []moment
	for n := range 4 {
		w.read(20+rand.IntN(60), kept, ends)
		w.stop()
		m := moment{disk: fmt.Sprint(disk, n), kept: clone(kept)}
		run(t, "cp", "--sparse=always", disk, m.disk)
		if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		moments = append(moments, m)
	}
	w.read(400, kept, ends) // more than a pipe may have held: all that was given up then is known
	w.kill()
	run(t, "umount", at)
	mounted = false
	for n, m := range moments {
		mount(m.disk)
		check(t, fmt.Sprint("moment ", n), filepath.Join(at, "inbox.db"), m.kept, ends)
		run(t, "umount", at)
	}
}

func clone(m map[string]bool) map[string]bool {
	out := map[string]bool{}
	for k := range m {
		out[k] = true
	}
	return out
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
