package workload

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxMirror bounds what one start of a service may write to the console, in bytes.
const maxMirror = 16 << 10

// capture copies a process's output to the journal.
type capture struct {
	journal *Journal
	service string
	console io.Writer
	mirror  atomic.Bool  // the console gets it too
	spent   atomic.Int64 // bytes mirrored
	pipes   [2]*os.File
	readers sync.WaitGroup
}

// newCapture starts to copy. The caller gives stdout and stderr to the process and
// closes them, and calls finish when the process has ended.
func newCapture(j *Journal, service string, console io.Writer) (c *capture, stdout, stderr *os.File, err error) {
	c = &capture{journal: j, service: service, console: console}
	c.mirror.Store(console != nil)
	var w [2]*os.File
	for i := range w {
		if c.pipes[i], w[i], err = os.Pipe(); err != nil {
			for k := range i {
				c.pipes[k].Close()
				w[k].Close()
			}
			return nil, nil, nil, err
		}
	}
	for i, stream := range []string{"stdout", "stderr"} {
		c.readers.Go(func() {
			_ = copyLines(c.pipes[i], func(text string) { c.add(stream, text) })
		})
	}
	return c, w[0], w[1], nil
}

func (c *capture) add(stream, text string) {
	c.journal.Append(c.service, stream, text)
	if c.mirror.Load() && c.spent.Add(int64(len(text))) < maxMirror {
		fmt.Fprintf(c.console, "%s: %s\n", c.service, text)
	}
}

// finish waits for the rest of the output. What a process that escaped its group
// writes more than a second later is lost.
func (c *capture) finish() {
	for _, p := range c.pipes {
		_ = p.SetReadDeadline(time.Now().Add(time.Second))
	}
	c.readers.Wait()
	for _, p := range c.pipes {
		p.Close()
	}
}
