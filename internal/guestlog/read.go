package guestlog

import (
	"bufio"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/sys"
)

// Query chooses lines.
type Query struct {
	Boot     int    // 0: the newest of which lines are kept
	Previous bool   // of the newest boot before that instead
	Service  string // empty: every one
	Since    time.Time
	Tail     int // the last lines; 0: all
}

// Read calls each with the chosen lines that are kept in the folder, the oldest first.
// KindNotFound says that lines are kept, and none of them is of the service. It may run
// while lines are written.
func Read(d *sys.Folder, q Query, each func(Line) error) error {
	files, err := openAll(d)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	boot := q.Boot
	if boot == 0 {
		boot, err = before(files, math.MaxInt)
	}
	if q.Previous && err == nil {
		boot, err = before(files, boot)
	}
	if err != nil || boot == 0 {
		return err
	}
	s := selection{q: q, services: map[string]bool{}}
	err = scan(files, func(l Line) error {
		if l.Boot != boot {
			return nil
		}
		return s.add(l, each)
	})
	if err != nil {
		return err
	}
	return s.end(each)
}

// openAll opens the files that are there, the oldest lines first. A file that was renamed
// meanwhile, and so was met twice, is taken once: they are opened from the newest on.
func openAll(d *sys.Folder) (files []*os.File, err error) {
	var infos []os.FileInfo
	for _, name := range Names() {
		f, err := d.Open(name, os.O_RDONLY)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return files, err
		}
		files = append(files, f)
		info, err := f.Stat()
		if err != nil {
			return files, err
		}
		if slices.ContainsFunc(infos, func(i os.FileInfo) bool { return os.SameFile(i, info) }) {
			files = files[:len(files)-1]
			f.Close()
			continue
		}
		infos = append(infos, info)
	}
	slices.Reverse(files)
	return files, nil
}

// before finds the newest boot before another of which there are lines, 0 for none.
func before(files []*os.File, boot int) (found int, err error) {
	err = scan(files, func(l Line) error {
		if l.Boot < boot {
			found = max(found, l.Boot)
		}
		return nil
	})
	return found, err
}

// scan calls fn with every whole line of the files, from their beginning.
func scan(files []*os.File, fn func(Line) error) error {
	for _, f := range files {
		r := bufio.NewReaderSize(io.NewSectionReader(f, 0, MaxFile+maxEncoded), maxEncoded)
		for {
			b, err := r.ReadSlice('\n')
			if l, ok := decode(b); ok {
				if err := fn(l); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return mvm.Errorf(mvm.KindInternal, "read %s: %w", f.Name(), err)
			}
		}
	}
	return nil
}

// selection passes on what a query chooses.
type selection struct {
	q        Query
	services map[string]bool // that lines are of
	tail     []Line
}

func (s *selection) add(l Line, each func(Line) error) error {
	if l.Service != "" {
		s.services[l.Service] = true
	}
	if l.Time.Before(s.q.Since) || s.q.Service != "" && l.Service != "" && l.Service != s.q.Service {
		return nil
	}
	if s.q.Tail == 0 {
		return each(l)
	}
	if s.tail = append(s.tail, l); len(s.tail) > s.q.Tail {
		s.tail = s.tail[1:]
	}
	return nil
}

func (s *selection) end(each func(Line) error) error {
	if want := s.q.Service; want != "" && len(s.services) > 0 && !s.services[want] {
		return mvm.Errorf(mvm.KindNotFound, "no log lines of service %.40q are kept", want).
			WithFix("there are log lines of %s", strings.Join(sorted(s.services), ", "))
	}
	for _, l := range s.tail {
		if err := each(l); err != nil {
			return err
		}
	}
	return nil
}

// maxNamed bounds how many services an error names: a guest makes them up.
const maxNamed = 10

func sorted(services map[string]bool) (names []string) {
	for name := range services {
		names = append(names, name)
	}
	slices.Sort(names)
	return names[:min(len(names), maxNamed)]
}
