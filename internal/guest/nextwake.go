package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guest/workload"
)

// nextWakeName is the file in which the workload says when it next has something to do.
const nextWakeName = "next-wake"

// maxNextWakeBytes bounds the file.
const maxNextWakeBytes = 64

// nextWake knows when the workload wants to be awake next: by the file, and by what
// services say beside whether they are busy. It follows the file, and does nothing while
// nothing changes.
type nextWake struct {
	a    *Agent
	path string
	once sync.Once

	mu       sync.Mutex
	file     time.Time
	services map[string]time.Time
	bad      string // what is wrong with the file
}

func newNextWake(a *Agent) *nextWake {
	return &nextWake{a: a, path: filepath.Join(a.paths.Run, nextWakeName), services: map[string]time.Time{}}
}

// at returns the earliest time, the zero one where there is none.
func (n *nextWake) at() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := n.file
	for _, t := range n.services {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at
}

// said takes in what a service answered.
func (n *nextWake) said(service, text string) {
	at, err := parseNextWake(text, time.Now())
	if err != nil {
		n.a.log.Warn("next wake of a service is ignored", "service", service, "error", err)
	}
	n.mu.Lock()
	before := n.services[service]
	delete(n.services, service)
	if !at.IsZero() {
		n.services[service] = at
	}
	n.mu.Unlock()
	if !at.Equal(before) {
		n.a.tellHealth()
	}
}

// read reads the file as it is now.
func (n *nextWake) read() {
	text, err := readSmall(n.path, maxNextWakeBytes)
	var at time.Time
	if err == nil {
		at, err = parseNextWake(text, time.Now())
	}
	bad := ""
	if err != nil {
		bad = err.Error()
	}
	n.mu.Lock()
	changed, worse := !at.Equal(n.file), bad != "" && bad != n.bad
	n.file, n.bad = at, bad
	n.mu.Unlock()
	if worse {
		n.a.log.Warn("next wake is ignored", "file", n.path, "error", bad)
	}
	if changed {
		n.a.tellHealth()
	}
}

// follow reads the file whenever it changes, until the agent stops.
func (n *nextWake) follow() {
	n.once.Do(func() {
		n.a.background.Go(func() {
			if err := n.watch(n.a.stopping); err != nil {
				n.a.log.Error("follow next wake: it is read before a sleep only", "error", err)
			}
		})
	})
}

func (n *nextWake) watch(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	const changes = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(n.path), changes); err != nil {
		return fmt.Errorf("inotify: watch %s: %w", filepath.Dir(n.path), err)
	}
	n.read() // it may have been there before
	buf := make([]byte, 16<<10)
	for {
		k, err := f.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("inotify: %w", err)
		}
		if named(buf[:k], nextWakeName) {
			n.read()
		}
	}
}

// named reports whether inotify events are about the name, or some were lost.
func named(events []byte, name string) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		mask, size := binary.NativeEndian.Uint32(events[4:]), int(binary.NativeEndian.Uint32(events[12:]))
		end := min(unix.SizeofInotifyEvent+size, len(events))
		if mask&unix.IN_Q_OVERFLOW != 0 || string(bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00")) == name {
			return true
		}
		events = events[end:]
	}
	return false
}

// readSmall reads a file that a workload writes: a regular one, of few bytes. One that is
// not there is empty.
func readSmall(path string, most int) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() {
		return "", errors.New("it is not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return string(b), err
}

// parseNextWake reads a time in RFC 3339 or in milliseconds since 1970; nothing is the zero
// time.
func parseNextWake(text string, now time.Time) (time.Time, error) {
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		ms, ok := millis(text)
		if !ok {
			return time.Time{}, fmt.Errorf("%q is no time in RFC 3339, such as 2026-11-30T08:00:00Z, or in milliseconds since 1970", workload.Clip(text))
		}
		at = time.UnixMilli(ms)
	}
	return mvm.NextWake(at, now)
}

// millis reads digits, and nothing else.
func millis(text string) (ms int64, ok bool) {
	if len(text) > 15 {
		return 0, false
	}
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return 0, false
		}
		ms = 10*ms + int64(c-'0')
	}
	return ms, true
}
