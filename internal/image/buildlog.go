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

	"mvm"
)

// buildLog is what a build says, in a file that outlives it. It is bounded, and the end is in
// it whatever was left out.
type buildLog struct {
	id, path string
	most     int

	mu   sync.Mutex
	f    *os.File
	size int
	last string
	full bool
}

// maxLine bounds a line of a log.
const maxLine = 4 << 10

// openLog makes the log of a new build, and removes the oldest ones.
func (s *DirStore) openLog(req Request) (*buildLog, error) {
	if err := s.trimLogs(); err != nil {
		s.log.Warn("remove old build logs", "error", err)
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	l := &buildLog{id: "b-" + hex.EncodeToString(b[:]), most: s.turns.limits.LogBytes}
	l.path = s.path("logs", l.id+".log")
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make build log: %w", err)
	}
	l.f = f
	l.line(fmt.Sprintf("build of %s for role %s, profile %s, tenant %s", req.Ref, req.Role, req.Profile, req.Tenant), false)
	return l, nil
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
	for n := 0; n <= len(all)-s.turns.limits.Logs; n++ {
		errs = append(errs, ignoreMissing(os.Remove(s.path("logs", all[n].name))))
	}
	return errors.Join(errs...)
}

// say notes progress; what is said twice in a row is noted once.
func (l *buildLog) say(p mvm.Progress) {
	if p.Text != "" {
		l.line(p.Text, false)
	}
}

// line writes a line, unless the log is full; last ones are written in any case. A log that
// can't be written fails no build.
func (l *buildLog) line(text string, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text == l.last || l.full && !last {
		return
	}
	l.last = text
	text = strings.ReplaceAll(text[:min(len(text), maxLine)], "\n", "\n    ")
	text = fmt.Sprintf("%s %s\n", time.Now().UTC().Format(time.RFC3339), text)
	if l.size += len(text); l.size > l.most && !last {
		l.full, text = true, "… what the build said from here on is left out\n"
	}
	_, _ = l.f.WriteString(text)
}

// close notes how the build ended.
func (l *buildLog) close(img Image, err error) {
	if err != nil {
		l.line("failed: "+err.Error(), true)
	} else {
		l.line("done: "+img.Digest, true)
	}
	_ = l.f.Close()
}
