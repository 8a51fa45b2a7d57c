package builds

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/build"
	"mvm/internal/wait"
)

// cancelWait bounds how long Cancel waits for the end of what it cancelled.
const cancelWait = 10 * time.Second

// Cancel ends a build that is under way, and waits a while for its end. KindState: it has ended.
func (b *Builds) Cancel(ctx context.Context, id string) (build.Run, error) {
	b.mu.Lock()
	r, err := b.find(id)
	if err == nil && r.State.Ended() {
		err = mvm.Errorf(mvm.KindState, "cancel build %s: it is %s already", id, r.State)
	}
	if err != nil {
		b.mu.Unlock()
		return build.Run{}, err
	}
	by := mvm.AskerFrom(ctx)
	r.stop(canceled{by, fmt.Sprintf("cancelled by %s", by)})
	b.mu.Unlock()
	select {
	case <-r.done:
	case <-ctx.Done():
	case <-time.After(cancelWait):
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return r.copy(), nil
}

// stop ends the build. b.mu is held.
func (r *run) stop(cause canceled) {
	if r.cancel != nil {
		r.cancel(cause)
	}
}

// Drop is told that a pool is destroyed, or a tenant where it names no pool. Builds that no other
// pool waits for are cancelled, and those of a tenant are forgotten.
func (b *Builds) Drop(ctx context.Context, at mvm.Address) error {
	var stopped []*run
	b.mu.Lock()
	for _, r := range b.all {
		if r.Tenant != at.Tenant {
			continue
		}
		r.takers = slices.DeleteFunc(r.takers, func(t taker) bool { return t.at == at || at.Pool == "" })
		if r.State.Ended() || at.Pool != "" && !slices.Contains(r.Pools, at.Pool) {
			continue
		}
		if others := slices.DeleteFunc(slices.Clone(r.Pools), func(p string) bool { return p == at.Pool }); at.Pool != "" && len(others) > 0 {
			r.Pools = others
		} else {
			r.stop(canceled{mvm.AskerFrom(ctx), fmt.Sprintf("cancelled because %s is destroyed", at)})
			stopped = append(stopped, r)
		}
	}
	b.mu.Unlock()
	if at.Pool != "" {
		return nil
	}
	for _, r := range stopped {
		if err := wait.Done(ctx, r.done); err != nil {
			return err
		}
	}
	for _, r := range b.List(at.Tenant) {
		if r.State.Ended() {
			b.forget(r.ID)
		}
	}
	return nil
}

// maxLine bounds a line of a log that is read; those that are written are shorter.
const maxLine = 16 << 10

// Logs gives the lines of a build's log: the last ones where tail is not 0, and where follow is
// set those that come, until the build ends. A slow reader holds up nobody: it reads the file.
func (b *Builds) Logs(ctx context.Context, id string, tail int, follow bool, each func(mvm.LogLine) error) error {
	b.mu.Lock()
	r, err := b.find(id)
	b.mu.Unlock()
	if err != nil {
		return err
	}
	f, err := os.Open(b.logPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return mvm.Errorf(mvm.KindNotFound, "build %s has no log: it ended before it began, or was removed", id)
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "read log of build %s: %w", id, err)
	}
	defer f.Close()
	l := &logReader{in: bufio.NewReaderSize(f, maxLine)}
	if tail > 0 {
		if err := l.last(tail, each); err != nil {
			return err
		}
	}
	for {
		b.mu.Lock()
		news, ended := r.news, r.State.Ended()
		b.mu.Unlock()
		ended = ended && closed(r.done)
		if err := l.rest(ctx, each); err != nil || ended || !follow {
			return err
		}
		select {
		case <-news:
		case <-r.done:
		case <-ctx.Done():
			return mvm.Errorf(mvm.KindCanceled, "follow build %s: %w", id, context.Cause(ctx))
		}
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// logReader reads a log that is still written.
type logReader struct {
	in   *bufio.Reader
	part string    // of a line, whose end is not there yet
	at   time.Time // of the last line that has a time
}

// rest gives the lines that are there now.
func (l *logReader) rest(ctx context.Context, each func(mvm.LogLine) error) error {
	for ctx.Err() == nil {
		text, ok, err := l.next()
		if err != nil || !ok {
			return err
		}
		if err := each(l.line(text)); err != nil {
			return err
		}
	}
	return mvm.Errorf(mvm.KindCanceled, "read build log: %w", context.Cause(ctx))
}

// last gives the last lines that are there now.
func (l *logReader) last(n int, each func(mvm.LogLine) error) error {
	var kept []mvm.LogLine
	for {
		text, ok, err := l.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if kept = append(kept, l.line(text)); len(kept) > n {
			kept = kept[1:]
		}
	}
	for _, line := range kept {
		if err := each(line); err != nil {
			return err
		}
	}
	return nil
}

// next reads a line; false: there is no whole one yet.
func (l *logReader) next() (string, bool, error) {
	text, err := l.in.ReadSlice('\n')
	if errors.Is(err, io.EOF) {
		l.part += string(text)
		return "", false, nil
	}
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return "", false, mvm.Errorf(mvm.KindInternal, "read build log: %w", err)
	}
	line := l.part + strings.TrimSuffix(string(text), "\n")
	l.part = ""
	return line, true, nil
}

// line takes the time off a line. One that goes on with the line before has its time.
func (l *logReader) line(text string) mvm.LogLine {
	if stamp, rest, ok := strings.Cut(text, " "); ok {
		if at, err := time.Parse(time.RFC3339, stamp); err == nil {
			l.at, text = at, rest
		}
	}
	return mvm.LogLine{Time: l.at, Text: text}
}
