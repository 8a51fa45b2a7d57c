package session

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/sys"
)

// Bounds of the console log as it is shown, and the pause between looks for more.
const (
	maxConsoleLine = 16 << 10
	consolePoll    = 200 * time.Millisecond
	consoleTail    = 8 << 10 // of which the last lines are shown
)

// consoleLog shows what the guest wrote to its console, running or not.
func (s *Sessions) consoleLog(ctx context.Context, addr mvm.Address, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	i, err := s.opt.Guests.Instance(ctx, addr)
	if err != nil {
		return err
	}
	var f *os.File
	err = s.opt.Guests.InFolder(i.ID, "open console log", func(d *sys.Folder) (err error) {
		f, err = d.Open(s.opt.Console, os.O_RDONLY)
		return err
	})
	if err != nil {
		return sys.IfThere(err)
	}
	defer f.Close()
	if spec.Record {
		s.RecordUse(ctx, mvm.LogsRead, i, "console")
	}
	send := func(text string) error {
		return line(mvm.LogLine{Stream: "console", Text: strings.TrimRight(text, "\r\n")})
	}
	r := bufio.NewReaderSize(f, maxConsoleLine)
	lines, err := readLines(r, spec.Tail)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "read console log: %w", err)
	}
	for _, l := range lines {
		if err := send(l); err != nil {
			return err
		}
	}
	for spec.Follow {
		b, err := r.ReadSlice('\n')
		switch {
		case len(b) > 0:
			if err := send(string(b)); err != nil {
				return err
			}
		case errors.Is(err, io.EOF):
			select {
			case <-ctx.Done():
				return mvm.Errorf(mvm.KindCanceled, "read console log of %s: %w", i.ID, context.Cause(ctx))
			case <-s.life.Done():
				return context.Cause(s.life)
			case <-time.After(consolePoll):
			}
		case err != nil:
			return mvm.Errorf(mvm.KindInternal, "read console log: %w", err)
		}
	}
	return nil
}

// readLines reads to the end and returns the last tail lines, all with tail 0.
func readLines(r *bufio.Reader, tail int) (lines []string, err error) {
	for {
		b, err := r.ReadSlice('\n')
		if len(b) > 0 {
			lines = append(lines, string(b))
			if tail > 0 && len(lines) > tail {
				lines = lines[1:]
			}
		}
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return lines, err
		}
	}
}

// tellingLines are the last of the lines or, where the kernel panicked, those around what it
// says first: registers and calls come behind it.
func tellingLines(lines []string) []string {
	end := len(lines)
	for n, l := range slices.Backward(lines) {
		if strings.Contains(l, "Kernel panic - not syncing") && !strings.Contains(l, "end Kernel panic") {
			end = min(len(lines), n+1+lastLinesKept/2)
			break
		}
	}
	return lines[max(0, end-lastLinesKept):end]
}

// LastConsole are the last lines of an instance's console, none where they can't be read.
func (s *Sessions) LastConsole(id string) (lines []string) {
	_ = s.opt.Guests.InFolder(id, "open console log", func(d *sys.Folder) error {
		f, err := d.Open(s.opt.Console, os.O_RDONLY)
		if err != nil {
			return err
		}
		defer f.Close()
		size, err := f.Seek(0, io.SeekEnd)
		if err == nil {
			_, err = f.Seek(max(0, size-consoleTail), io.SeekStart)
		}
		if err != nil {
			return err
		}
		lines, err = readLines(bufio.NewReaderSize(io.LimitReader(f, consoleTail), maxConsoleLine), 0)
		return err
	})
	lines = tellingLines(lines)
	for n, l := range lines {
		lines[n] = display.Clip(strings.TrimRight(l, "\r\n"))
	}
	return lines
}
