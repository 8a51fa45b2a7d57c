package image

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Log is what a build says, in a file that outlives it. It is bounded, and the end is in it
// whatever was left out. Its methods may be called concurrently.
type Log struct {
	most int

	mu   sync.Mutex
	f    *os.File
	size int
	last string
	full bool
}

// maxLine bounds a line of a log.
const maxLine = 4 << 10

// OpenLog makes the file of a new log, of about so many bytes at most.
func OpenLog(path string, most int) (*Log, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make build log: %w", err)
	}
	return &Log{most: most, f: f}, nil
}

// Say notes a line; what is said twice in a row is noted once. It reports whether the line is
// in the file.
func (l *Log) Say(text string) bool { return text != "" && l.line(text, false) }

// End notes the last line, and closes the file.
func (l *Log) End(text string) {
	l.line(text, true)
	_ = l.f.Close()
}

// line writes a line, unless the log is full; last ones are written in any case. A log that
// can't be written fails no build.
func (l *Log) line(text string, last bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text == l.last || l.full && !last {
		return false
	}
	l.last = text
	text = strings.ReplaceAll(text[:min(len(text), maxLine)], "\n", "\n    ")
	text = fmt.Sprintf("%s %s\n", time.Now().UTC().Format(time.RFC3339), text)
	if l.size += len(text); l.size > l.most && !last {
		l.full, text = true, "… what the build said from here on is left out\n"
	}
	_, _ = l.f.WriteString(text)
	return true
}

// ownLog is the log of a build of which nobody else keeps one.
type ownLog struct {
	*Log
	id, path string
}

// openLog makes the log of a new build, and removes the oldest ones.
func (s *DirStore) openLog(req Request) (*ownLog, error) {
	if err := s.trimLogs(); err != nil {
		s.log.Warn("remove old build logs", "error", err)
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	id := "b-" + hex.EncodeToString(b[:])
	path := s.path("logs", id+".log")
	l, err := OpenLog(path, s.limits.LogBytes)
	if err != nil {
		return nil, err
	}
	l.Say(req.Describe())
	return &ownLog{l, id, path}, nil
}

// Describe says what is wanted, and for whom.
func (r Request) Describe() string {
	return fmt.Sprintf("build of %s for role %s, profile %s, tenant %s", r.Ref, r.Role, r.Profile, r.Tenant)
}

// trimLogs removes the oldest logs, so that there is room for one more.
func (s *DirStore) trimLogs() error {
	entries, err := os.ReadDir(s.path("logs"))
	if err != nil {
		return err
	}
	type file struct {
		name string
		mod  time.Time
	}
	var all []file
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			all = append(all, file{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b file) int { return a.mod.Compare(b.mod) })
	var errs []error
	for n := 0; n <= len(all)-s.limits.Logs; n++ {
		errs = append(errs, ignoreMissing(os.Remove(s.path("logs", all[n].name))))
	}
	return errors.Join(errs...)
}

// end notes how the build ended.
func (l *ownLog) end(img Image, err error) {
	if err != nil {
		l.End("failed: " + err.Error())
	} else {
		l.End("done: " + img.Digest)
	}
}
