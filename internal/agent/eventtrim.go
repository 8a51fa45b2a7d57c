package agent

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

// defaultAuditRetention is how long an entry is kept.
const defaultAuditRetention = 90 * 24 * time.Hour

// trimEvents bounds the audit log for as long as the agent runs, and says in the log of
// the agent where it ends: who wants to know whether an older copy was put in its place
// finds that out with this line.
func (a *Agent) trimEvents() {
	trim := func() {
		if err := a.trimNow(); err != nil {
			a.log.Error("trim audit log", "error", err)
		}
		a.log.Info("audit log", "head", a.store.LastMark().String())
	}
	trim()
	wait.Every(a.ctx, trimEvery, trim)
}

// trimNow trims the audit log to its bounds, in several transactions where it is far
// beyond them.
func (a *Agent) trimNow() error {
	early := 0
	for gone := 1; gone > 0 && a.ctx.Err() == nil; {
		err := a.store.Update(func(tx *store.Tx) (err error) {
			n := 0
			gone, n, err = tx.TrimEvents(time.Now().Add(-a.opt.AuditRetention), keptEvents)
			early += n
			return err
		})
		if err != nil {
			return err
		}
	}
	if early > 0 {
		a.log.Warn("audit log is full: entries were forgotten before their time", "entries", early, "keeps", keptEvents)
	}
	return nil
}
