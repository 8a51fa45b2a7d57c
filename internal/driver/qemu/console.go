package qemu

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

	"mvm/internal/driver"
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

// console copies what the guest writes to its serial port into a log file. While
// no agent is there QEMU drops what the guest writes.
type console struct {
	conn   net.Conn
	spec   driver.Spec
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
	last   []byte // the end of what this VMM wrote while it was held; after done
}

// startConsole owns conn. drain or stop ends it.
func startConsole(conn net.Conn, spec driver.Spec, log *slog.Logger) *console {
	ctx, cancel := context.WithCancel(context.Background())
	c := &console{conn: conn, spec: spec, log: log, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		if err := c.run(ctx); err != nil {
			c.log.Warn("console log ended", "error", err)
		}
	}()
	return c
}

func (c *console) run(ctx context.Context) (err error) {
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
		if n > 0 && c.spec.Console != "" {
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
func (c *console) keep(b []byte) {
	b = b[max(0, len(b)-consoleKept):]
	c.last = append(c.last, b...)
	if over := len(c.last) - consoleKept; over > 0 {
		c.last = append(c.last[:0], c.last[over:]...)
	}
}

// panicMark is what Linux says first when it panics.
const panicMark = "Kernel panic - "

// panicked returns what the guest's kernel said when it panicked, "" where it did not.
// Once drained.
func (c *console) panicked() string {
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
func (c *console) open(old *os.File) (f *os.File, size int64, err error) {
	if old != nil {
		old.Close()
	}
	err = sys.InParent(c.spec.Dir, c.spec.Console, func(d *sys.Folder, name string) error {
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
func (c *console) discard() error {
	_, err := io.Copy(io.Discard, c.conn)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// drain reads to the end what a VMM that is gone has left in the socket; not for
// long, lest somebody else holds the other end.
func (c *console) drain() {
	c.cancel()
	c.conn.SetReadDeadline(time.Now().Add(drainTimeout))
	<-c.done
	c.stop()
}

// stop ends the log.
func (c *console) stop() {
	c.once.Do(func() {
		c.cancel()
		c.conn.Close()
	})
	<-c.done
}
