// Package console keeps what guests write to their serial ports, bounded, in log files.
package console

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"mvm/internal/sys"
)

// Bounds of a console log. A guest that writes faster is slowed down, not lost.
const (
	maxConsole   = 1 << 20 // bytes of the log; as much again in the one before, ".1"
	consoleRate  = 256 << 10
	consoleBurst = 1 << 20
	consoleChunk = 16 << 10
	consoleKept  = 8 << 10 // of the end, in memory: a panic is looked for there
	maxPanic     = 200     // of what the kernel says of it
	drainTimeout = 2 * time.Second
)

// Conn is where the guest's output comes from: a socket or a pipe.
type Conn interface {
	io.ReadCloser
	SetReadDeadline(t time.Time) error
}

// Console copies what the guest writes to its serial port into a log file. While
// no agent is there the VMM drops what the guest writes.
type Console struct {
	conn   Conn
	dir    string // of the instance
	path   string // of the log; "": none
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
	last   []byte // the end of what this VMM wrote while it was held; after done
}

// Start copies into the log file at path, which is in the folder dir of the instance, or
// nowhere where path is empty. It owns conn. Drain or Stop ends it.
func Start(conn Conn, dir, path string, log *slog.Logger) *Console {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Console{conn: conn, dir: dir, path: path, log: log, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		if err := c.run(ctx); err != nil {
			c.log.Warn("console log ended", "error", err)
		}
	}()
	return c
}

func (c *Console) run(ctx context.Context) (err error) {
	var f *os.File
	var size int64
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	lim := rate.NewLimiter(consoleRate, consoleBurst)
	buf := make([]byte, consoleChunk)
	for {
		n, rerr := c.conn.Read(buf)
		c.keep(buf[:n])
		if n > 0 && c.path != "" {
			if f == nil || size+int64(n) > maxConsole {
				if f, size, err = c.open(f); err != nil {
					return errors.Join(err, c.discard())
				}
			}
			if _, err := f.Write(buf[:n]); err != nil { // a full disk: go on without
				c.log.Warn("write the console log", "error", err)
			}
			size += int64(n)
		}
		if rerr != nil {
			return nil // the VMM is gone, or stop was called
		}
		_ = lim.WaitN(ctx, n) // does not wait any more once drained
	}
}

// keep remembers the end of what the guest wrote.
func (c *Console) keep(b []byte) {
	b = b[max(0, len(b)-consoleKept):]
	c.last = append(c.last, b...)
	if over := len(c.last) - consoleKept; over > 0 {
		c.last = append(c.last[:0], c.last[over:]...)
	}
}

// panicMark is what Linux says first when it panics.
const panicMark = "Kernel panic - "

// Panicked returns what the guest's kernel said when it panicked, "" where it did not.
// Once drained.
func (c *Console) Panicked() string {
	text := string(c.last)
	at := strings.LastIndex(text, panicMark)
	if at < 0 {
		return ""
	}
	line, _, _ := strings.Cut(text[at:], "\n")
	if len(line) > maxPanic {
		line = line[:maxPanic]
	}
	return strings.TrimSpace(strings.ToValidUTF8(line, ""))
}

// open opens the log to append, after moving a full one out of the way.
func (c *Console) open(old *os.File) (f *os.File, size int64, err error) {
	if old != nil {
		old.Close()
	}
	err = sys.InParent(c.dir, c.path, func(d *sys.Folder, name string) error {
		if size, _, err = d.Size(name); err == nil && size > maxConsole/2 {
			err, size = d.Rename(name, d, name+".1"), 0
		}
		if err = sys.IfThere(err); err == nil {
			f, err = d.Append(name)
		}
		return err
	})
	return f, size, err
}

// discard keeps the guest going when there is no log.
func (c *Console) discard() error {
	_, err := io.Copy(io.Discard, c.conn)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Drain reads to the end what a VMM that is gone has left in the socket; not for
// long, lest somebody else holds the other end.
func (c *Console) Drain() {
	c.cancel()
	c.conn.SetReadDeadline(time.Now().Add(drainTimeout))
	<-c.done
	c.Stop()
}

// Stop ends the log.
func (c *Console) Stop() {
	c.once.Do(func() {
		c.cancel()
		c.conn.Close()
	})
	<-c.done
}

// Said reports whether the end of what the guest wrote has the words. Once drained.
func (c *Console) Said(words string) bool { return strings.Contains(string(c.last), words) }
