package chat_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm/test/botapi"
)

// apart is how far apart the moments are at which messages come.
const apart = 5 * time.Millisecond

// TestEdges: a message that comes at any moment of falling asleep (fence, suspend, prepare,
// freeze) or of waking (thaw, resume) is answered, once, and not by "restarting"; and OpenClaw
// rests afterwards.
func TestEdges(t *testing.T) {
	h := newHost(t)
	h.ready()
	e := &edges{host: h}
	e.write("")
	asleep, awake := e.span(false), e.span(true)
	t.Logf("it falls asleep within %s and wakes within %s", asleep, awake)
	for n := range *edgesFlag {
		// Falling asleep is the longer one, and with few rounds they are spread over it.
		wakes := n%3 == 2
		span := asleep + 4*apart
		if wakes {
			span = awake + 4*apart
		}
		at := time.Duration(n/3) * apart
		if few := time.Duration(*edgesFlag / 3); few > 0 && few*apart < span {
			at = time.Duration(n/3) * span / few
		}
		e.round(wakes, at%span-2*apart)
	}
	e.rests()
	t.Logf("%d messages: %d while it fell asleep, of which %d called that off, and %d while it woke", e.n, e.falling, e.calledOff, e.waking)
}

type edges struct {
	*host
	n                          int
	falling, calledOff, waking int
}

// write writes the next message, named by the moment.
func (e *edges) write(moment string) (key string) {
	key = fmt.Sprintf("m-100-%03d", e.n)
	e.n++
	e.api.Write(100, 100, key+moment)
	e.until(key+moment+" is answered", func() error {
		if !slices.ContainsFunc(e.api.Sent(), func(s botapi.Sent) bool { return strings.Contains(s.Text, key) }) {
			return fmt.Errorf("%d wait, sent %+v", len(e.api.Pending()), e.api.Sent())
		}
		return nil
	})
	return key
}

// span is how long a sleep, or a wake, takes.
func (e *edges) span(wakes bool) time.Duration {
	if !wakes {
		e.fallAsleep()
	}
	began := time.Now()
	if wakes {
		must(e.t, e.wake())
		return time.Since(began)
	}
	must(e.t, e.wake())
	e.ready()
	began = time.Now()
	e.fallAsleep()
	return time.Since(began)
}

// fallAsleep tries until OpenClaw, which takes 28 requests to hold still a minute, does.
func (e *edges) fallAsleep() {
	e.t.Helper()
	e.until("it falls asleep", e.sleep)
}

// round has a message come at the moment after the beginning of a sleep, or of a wake.
func (e *edges) round(wakes bool, at time.Duration) {
	e.t.Helper()
	e.ready()
	if wakes {
		e.fallAsleep()
	}
	done := make(chan error, 1)
	begin := func() {
		if wakes {
			done <- e.wake()
			return
		}
		done <- e.sleep()
	}
	key := ""
	if at < 0 {
		timer := time.AfterFunc(-at, begin)
		defer timer.Stop()
		key = e.write(" before")
	} else {
		go begin()
		time.Sleep(at)
		key = e.write(" " + at.String())
	}
	err := <-done
	switch {
	case wakes:
		must(e.t, err)
		e.waking++
	case err != nil:
		e.falling++
		e.calledOff++
	default:
		e.falling++
	}
	times := 0
	for _, s := range e.api.Sent() {
		if strings.Contains(s.Text, key) {
			times++
		} else if !strings.HasPrefix(s.Text, "heard: ") {
			e.t.Errorf("with a message %s after the beginning the chat was told %q", at, s.Text)
		}
	}
	if times != 1 {
		e.t.Errorf("a message %s after the beginning is answered %d times", at, times)
	}
	if err := e.wake(); err != nil { // what came before all this may have let it fall asleep
		e.t.Error(err)
	}
}

// rests sees that OpenClaw uses little of the CPU.
func (e *edges) rests() {
	e.t.Helper()
	e.ready()
	pid := e.openClaw()
	used := func() (ticks int64) {
		var err error
		ticks, err = cpuTicks(pid)
		must(e.t, err)
		return ticks
	}
	e.until("OpenClaw rests", func() error {
		before := used()
		time.Sleep(3 * time.Second)
		if n := used() - before; n > 60 { // hundredths of a second
			return fmt.Errorf("it used %d0 ms of the CPU in 3 s", n)
		}
		return nil
	})
}

// cpuTicks is the CPU time of a process, in hundredths of a second.
func cpuTicks(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("no stat of a process")
	}
	var user, system int64
	_, err = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	return user + system, err
}
