package guestlog

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

// Bounds of a Collector.
const (
	// maxUnwritten and writeAfter bound what a crash of the agent finds unwritten, which
	// the guest has still.
	maxUnwritten = 64 << 10
	writeAfter   = 30 * time.Second
	// lineRate and lineBurst bound what a guest has written, in bytes a second. Beyond that
	// the host reads slower, and the guest drops lines.
	lineRate  = 64 << 10
	lineBurst = 1 << 20
	// The pauses between tries to follow a guest that answers no more.
	firstRetry = 2 * time.Second
	lastRetry  = time.Minute
	// dialTimeout bounds one try to reach the guest.
	dialTimeout = 10 * time.Second
)

// Options are what a Collector is made of; all are required.
type Options struct {
	Boot int // of the guest
	// Dial opens a stream to the guest's agent.
	Dial func(ctx context.Context) (net.Conn, error)
	// In calls fn with the instance's folder.
	In  func(fn func(*sys.Folder) error) error
	Log *slog.Logger
}

// Collector keeps what one boot of a guest logs. It costs nothing while no line comes: it
// waits for the next one. A nil Collector keeps nothing.
type Collector struct {
	opt     Options
	ctx     context.Context // ends with End
	cancel  context.CancelFunc
	ending  context.Context // ends when the VMM did, or End is called
	ended   context.CancelFunc
	begin   chan time.Duration // the guest answers: follow it after that time
	done    chan struct{}
	limiter *rate.Limiter

	// Of run alone.
	seq    uint64    // of the last line
	at     time.Time // of the last line
	behind bool      // lines of a guest without numbers that are kept already may come

	mu      sync.Mutex
	file    writer
	known   bool // what the files have was looked up
	buf     []byte
	held    uint64 // lines in buf
	dropped uint64 // lines that could not be written
	failing bool   // the last write failed, and that was logged
	timer   *time.Timer
	writes  sync.WaitGroup // by the timer
}

// Start makes a collector. It does nothing before Follow. End ends it.
func Start(o Options) *Collector {
	c := &Collector{opt: o, begin: make(chan time.Duration, 1), done: make(chan struct{}),
		limiter: rate.NewLimiter(lineRate, lineBurst), file: writer{boot: o.Boot}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.ending, c.ended = context.WithCancel(c.ctx)
	go c.run()
	return c
}

// Follow says that the guest answers, and has it followed after the delay, unless it is
// followed already. Of several delays that have not begun the first counts, but none
// delays one of 0.
func (c *Collector) Follow(delay time.Duration) {
	if c == nil {
		return
	}
	select {
	case c.begin <- delay:
		return
	default:
	}
	if delay == 0 {
		select {
		case <-c.begin:
		default:
		}
		c.Follow(0)
	}
}

// Flush writes what came and is not written yet.
func (c *Collector) Flush() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
}

// End takes what a guest whose VMM ended has said, waits at most grace for that, writes
// it and ends the collector. It can run twice.
func (c *Collector) End(grace time.Duration) {
	if c == nil {
		return
	}
	c.ended()
	if grace > 0 {
		t := time.NewTimer(grace)
		select {
		case <-c.done:
		case <-t.C:
		}
		t.Stop()
	}
	c.cancel()
	<-c.done
	c.Flush()
	c.writes.Wait()
}

// run follows the guest, again after each end of the stream.
func (c *Collector) run() {
	defer close(c.done)
	var retry <-chan time.Time
	wait := firstRetry
	for {
		var delay time.Duration
		select {
		case <-c.ending.Done():
			return
		case delay = <-c.begin:
		case <-retry:
		}
		if !c.pause(delay) {
			return
		}
		n, err := c.follow()
		if c.ending.Err() != nil {
			return
		}
		if wait = min(2*wait, lastRetry); n > 0 {
			wait = firstRetry
		}
		c.opt.Log.Debug("guest's log is not followed", "error", err, "again", wait)
		retry = time.After(wait)
	}
}

// pause waits, at most until the next call of Follow with no delay; false at the end.
func (c *Collector) pause(d time.Duration) bool {
	if d == 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-c.ending.Done():
			return false
		case <-t.C:
			return true
		case d := <-c.begin:
			if d == 0 {
				return true
			}
		}
	}
}

// follow takes the guest's lines until the stream ends, and says how many it took.
func (c *Collector) follow() (n int, err error) {
	if err := c.lookUp(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(c.ending, dialTimeout)
	conn, err := c.opt.Dial(ctx)
	cancel()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	release := guestproto.Bind(c.ctx, conn)
	defer release()
	if err := guestproto.Send(conn, guestproto.Request{Logs: &guestproto.Logs{Follow: true, After: c.seq}}); err != nil {
		return 0, err
	}
	r := bufio.NewReaderSize(conn, 4<<10)
	c.behind = true
	for ; ; n++ {
		var m guestproto.Response
		if err := guestproto.Receive(r, &m); err != nil {
			return n, err
		}
		if m.LogLine == nil {
			return n, mvm.Errorf(mvm.KindUnavailable, "the guest sent no line")
		}
		c.take(*m.LogLine)
	}
}

// lookUp finds out once what is kept of this boot already.
func (c *Collector) lookUp() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known {
		return nil
	}
	err := c.opt.In(func(d *sys.Folder) error {
		l, err := c.file.last(d)
		if err == nil {
			c.seq, c.at, c.known = l.Seq, l.Time, true
		}
		return err
	})
	c.report(err)
	return err
}

// take keeps a line, but for one that is kept already.
func (c *Collector) take(g guestproto.LogLine) {
	l := line(c.opt.Boot, g)
	if l.Seq == 0 && c.behind && !l.Time.After(c.at) {
		return
	}
	c.behind = false
	var b []byte
	if l.Seq > c.seq && l.Seq-c.seq > 1 { // where it goes back, the guest's agent has begun anew
		b = encode(b, lost(c.opt.Boot, l.Seq-c.seq-1, l.Time, ""))
	}
	b = encode(b, l)
	c.seq, c.at = l.Seq, l.Time
	_ = c.limiter.WaitN(c.ending, min(len(b), lineBurst)) // at the end nothing waits
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, b...)
	if c.held++; len(c.buf) >= maxUnwritten {
		c.flush()
	} else if c.timer == nil {
		c.writeLater()
	}
}

// writeLater writes what is in buf after a while. mu is held.
func (c *Collector) writeLater() {
	c.writes.Add(1)
	var t *time.Timer
	t = time.AfterFunc(writeAfter, func() {
		defer c.writes.Done()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.timer == t {
			c.timer = nil
			c.flush()
		}
	})
	c.timer = t
}

// flush writes what is in buf. Lines that can't be written are lost: that is logged once,
// and told in their place once lines can be written again. mu is held.
func (c *Collector) flush() {
	if c.timer != nil && c.timer.Stop() {
		c.writes.Done()
	}
	c.timer = nil
	if len(c.buf) == 0 {
		return
	}
	lines := c.buf
	if c.dropped > 0 {
		lines = append(encode(nil, lost(c.opt.Boot, c.dropped, time.Now().UTC(), ": the host could not write them")), lines...)
	}
	err := c.opt.In(func(d *sys.Folder) error { return c.file.add(d, lines) })
	if err == nil {
		c.dropped = 0
	} else {
		c.dropped += c.held
	}
	c.report(err)
	c.buf, c.held = nil, 0
}

// report logs that the files can't be used, once until they can. mu is held.
func (c *Collector) report(err error) {
	if err != nil && !c.failing {
		c.opt.Log.Warn("lines of the guest's log are lost", "error", err, "fix", sys.FaultFix(err))
	}
	c.failing = err != nil
}
