package journal

import (
	"time"

	"mvm/internal/store"
	"mvm/internal/wait"
)

// The audit log is looked at this often, and never has more entries than this.
const (
	trimEvery  = time.Hour
	keptEvents = 500_000
)

// defaultRetention is how long an entry is kept.
const defaultRetention = 90 * 24 * time.Hour

// Run bounds the audit log until the journal is closed, and says in the log of
// the agent where it ends: who wants to know whether an older copy was put in its place
// finds that out with this line.
func (j *Journal) Run() {
	trim := func() {
		if err := j.Trim(); err != nil {
			j.opt.Log.Error("trim audit log", "error", err)
		}
		j.opt.Log.Info("audit log", "head", j.opt.Store.LastMark().String())
	}
	trim()
	wait.Every(j.ctx, trimEvery, trim)
}

// Trim trims the audit log to its bounds, in several transactions where it is far
// beyond them.
func (j *Journal) Trim() error {
	early := 0
	for gone := 1; gone > 0 && j.ctx.Err() == nil; {
		err := j.opt.Store.Update(func(tx *store.Tx) (err error) {
			n := 0
			gone, n, err = tx.TrimEvents(time.Now().Add(-j.opt.Retention), keptEvents)
			early += n
			return err
		})
		if err != nil {
			return err
		}
	}
	if early > 0 {
		j.opt.Log.Warn("audit log is full: entries were forgotten before their time", "entries", early, "keeps", keptEvents)
	}
	return nil
}
