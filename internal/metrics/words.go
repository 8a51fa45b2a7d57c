package metrics

import "sync"

// maxWords bounds what one label says; it is far more than the program has words for.
// A label that grows all the same, by a mistake, says other from then on.
const (
	maxWords = 128
	other    = "other"
)

// words remembers what the labels have said.
type words struct {
	mu   sync.Mutex
	seen map[string]map[string]bool
}

func (w *words) op(s string) string      { return w.bounded("op", s) }
func (w *words) kind(s string) string    { return w.bounded("kind", s) }
func (w *words) stage(s string) string   { return w.bounded("stage", s) }
func (w *words) reason(s string) string  { return w.bounded("reason", s) }
func (w *words) request(s string) string { return w.bounded("request", s) }
func (w *words) route(s string) string   { return w.bounded("route", s) }

func (w *words) bounded(label, s string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = map[string]map[string]bool{}
	}
	of := w.seen[label]
	if of == nil {
		of = map[string]bool{}
		w.seen[label] = of
	}
	switch {
	case s == "":
		return other
	case of[s]:
		return s
	case len(of) >= maxWords:
		return other
	}
	of[s] = true
	return s
}
