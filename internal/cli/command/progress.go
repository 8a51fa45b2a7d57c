package command

import (
	"fmt"
	"sync"

	"mvm"
	"mvm/internal/display"
)

// progress shows what long work is at: one line that changes on a terminal, and a
// line for every new thing elsewhere.
type progress struct {
	a    *App
	Live bool
	mu   sync.Mutex
	last string
	text string // of the last report
	open bool   // a live line is on the screen
}

func (a *App) NewProgress() *progress {
	return &progress{a: a, Live: IsTerminal(a.Stderr) && a.Getenv("TERM") != "dumb"}
}

// Show takes one report; it may be called from any goroutine.
func (p *progress) Show(r mvm.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := r.Text
	if r.Target != "" {
		text = r.Target + ": " + text
	}
	text = display.Line(text)
	p.text = text
	if p.Live {
		_ = p.a.Errs.Raw([]byte("\r\x1b[K" + text + amount(r)))
		p.open = true
		return
	}
	if text != p.last {
		fmt.Fprintln(p.a.Stderr, text)
		p.last = text
	}
}

// lastText is the last report; "" where there was none.
func (p *progress) lastText() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text
}

// Done takes the live line away.
func (p *progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		_ = p.a.Errs.Raw([]byte("\r\x1b[K"))
		p.open = false
	}
}

func amount(r mvm.Progress) string {
	switch {
	case r.Total > 0 && r.Total < 4096:
		return fmt.Sprintf(" %d/%d", r.Done, r.Total)
	case r.Total > 0:
		return fmt.Sprintf(" %d %% of %s", r.Done*100/r.Total, Size(r.Total))
	case r.Done > 0:
		return " " + Size(r.Done)
	}
	return ""
}
