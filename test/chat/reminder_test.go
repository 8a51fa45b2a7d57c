package chat_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm/internal/guestproto"
	"mvm/test/botapi"
	"mvm/test/stubmodel"
)

// How far ahead reminders are, and how long before its time one is woken that sleeps. lateBound
// is what a machine with other work keeps; the figures are printed.
const (
	remindIn     = 60 * time.Second
	remindBooted = 2 * time.Minute
	wokenEarly   = 5 * time.Second
	lateBound    = 150 * time.Second
)

// TestReminders: OpenClaw tells its host of a reminder that was set by chat, and runs it once, at
// its time, when it was woken shortly before, or when its machine died asleep and was booted. It
// prints when OpenClaw began it, by its own records, apart from what its turn took.
func TestReminders(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.useModel(&stubmodel.Server{Reminders: true, Reply: func(last string) string { return "heard: " + last }})
	h.ready()
	h.remind(t, "drink water", remindIn, func(due time.Time) {
		time.Sleep(time.Until(due.Add(-wokenEarly)))
		must(t, h.wake())
	})
	h.remind(t, "walk home", remindBooted, func(time.Time) { must(t, h.powerLoss()) })
}

// useModel has another model answer from now on.
func (h *host) useModel(m http.Handler) { h.model.Store(&m) }

// remind sets a reminder, and has the sleeper rise for it.
func (h *host) remind(t *testing.T, what string, in time.Duration, rise func(due time.Time)) {
	t.Helper()
	h.api.Write(100, 100, fmt.Sprintf("remind me in %d seconds to %s", int(in.Seconds()), what))
	var due time.Time
	h.until("OpenClaw tells of its next wake", func() error {
		resp, err := h.askGuest(context.Background(), guestproto.Request{Status: true})
		if err != nil {
			return err
		}
		if due = resp.Status.NextWake; due.Before(time.Now()) {
			return fmt.Errorf("it tells %s; sent %+v", due, h.api.Sent())
		}
		return nil
	})
	h.ready()
	h.until("it falls asleep", h.sleep)
	if time.Until(due) < 2*wokenEarly {
		t.Fatalf("it fell asleep %s before it is due: this machine is too busy", time.Until(due))
	}
	rise(due)
	up := time.Now()
	h.until("the reminder is sent", func() error {
		if len(h.sentOf(what)) == 0 {
			return fmt.Errorf("sent %+v", h.api.Sent())
		}
		return nil
	})
	h.ready()
	h.until("its run has ended", func() error { return h.ranOnce(t, what, due, up) })
	if n := len(h.sentOf(what)); n != 1 {
		t.Errorf("the reminder to %s was sent %d times", what, n)
	}
}

func (h *host) sentOf(what string) []botapi.Sent {
	return slices.DeleteFunc(slices.Clone(h.api.Sent()), func(s botapi.Sent) bool { return !strings.Contains(s.Text, "it is time to "+what) })
}

// cronRun is a run of a scheduled job, as OpenClaw has it on record.
type cronRun struct {
	Status   string
	At, Done int64 // ms since 1970
	Error    *string
}

const readCronRuns = `const { DatabaseSync } = require("node:sqlite");
const db = new DatabaseSync("/data/openclaw/state/openclaw.sqlite", { readOnly: true });
console.log(JSON.stringify(db.prepare("SELECT status, started_at_ms AS at, finished_at_ms AS done, error_text AS error FROM cron_run_receipts").all()));`

// ranOnce checks that OpenClaw has run one job since shortly before the time, and prints when.
func (h *host) ranOnce(t *testing.T, what string, due, up time.Time) error {
	cmd := exec.Command("nsenter", "--target", fmt.Sprint(h.openClaw()), "--mount", "--root", "--wd", "/usr/local/bin/node", "-e", readCronRuns)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("read OpenClaw's runs: %w", err)
	}
	var all []cronRun
	if err := json.Unmarshal(out, &all); err != nil {
		return err
	}
	runs := slices.DeleteFunc(all, func(r cronRun) bool { return r.At < due.Add(-wokenEarly).UnixMilli() })
	if len(runs) == 0 || runs[0].Done == 0 {
		return fmt.Errorf("it has %+v on record", runs)
	}
	late := time.UnixMilli(runs[0].At).Sub(due)
	if len(runs) != 1 || runs[0].Status != "ok" || late < -time.Second || late > max(lateBound, up.Sub(due)+lateBound) {
		t.Errorf("OpenClaw has %+v on record, want one run at %s", runs, due)
	}
	t.Logf("to %s: up %s before it was due; OpenClaw began it %s after that, and its turn took %s; it was sent %s after it was due", what, due.Sub(up).Round(time.Millisecond),
		late, time.Duration(runs[0].Done-runs[0].At)*time.Millisecond, h.sentOf(what)[0].At.Sub(due).Round(time.Millisecond))
	return nil
}
