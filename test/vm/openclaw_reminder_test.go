package vm_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/testenv"
)

var remindFlag = flag.Duration("remind-in", 0, "how far ahead TestOpenClawReminders sets reminders; 0: it is skipped")

// reminderLate bounds how late OpenClaw begins a reminder, on a machine with other work and
// without KVM. The figure itself is printed.
const reminderLate = 150 * time.Second

// TestOpenClawReminders: a reminder that the user of a bot sets by chat wakes the sleeping
// OpenClaw, which runs it once, also where its memory is lost and it boots: that begins so early
// that it is over in time. It prints when OpenClaw began the reminder, by its own records, and
// how long its turn took then. A reminder after a boot is set by so much further ahead as a boot
// takes.
func TestOpenClawReminders(t *testing.T) {
	if *remindFlag == 0 {
		t.Skip("it takes about ten minutes; `make proof-chat` runs it")
	}
	h := newHost(t, "qemu")
	h.demo()
	o := h.openClaw()
	h.overrideIsOver(o.id)
	t.Run("from its snapshot", func(t *testing.T) { o.on(t).testReminder(false) })
	t.Run("after a boot", func(t *testing.T) { o.on(t).testReminder(true) })
}

// testReminder sets one, and waits for it. boots: the snapshot is lost meanwhile.
func (o *openClaw) testReminder(boots bool) {
	o.do(o.id, mvm.OpWake)
	o.model.asked()
	in := *remindFlag
	if boots {
		in += o.bootTook(o.id) * 5 / 4
	}
	since, written := len(o.bot.Sent()), time.Now()
	o.bot.Write(7, 7, fmt.Sprintf("remind me in %d seconds to drink water", int(in.Seconds())))
	testenv.Eventually(o.t, turnPatience, func() error {
		if i := o.get(o.id); time.Until(i.NextWake) < 0 {
			return fmt.Errorf("no reminder is set: %s; sent %+v", i.NextWake, o.bot.Sent()[since:])
		}
		return nil
	})
	turn := o.model.asked().Sub(written)
	o.rest()
	o.model.asked()
	at := o.get(o.id).NextWake
	if time.Until(at) < in-*remindFlag+time.Minute/2 {
		o.t.Fatalf("it sleeps only at %s, and the reminder is due at %s: this machine is too busy", time.Now(), at)
	}
	if boots {
		o.loseSnapshot(o.id)
	}
	var came []time.Time
	comes := func() error {
		came = nil
		for _, s := range o.bot.Sent()[since:] {
			if strings.Contains(s.Text, "it is time to drink water") {
				came = append(came, s.At)
			}
		}
		if len(came) == 0 {
			return fmt.Errorf("no reminder; sent %+v", o.bot.Sent()[since:])
		}
		return nil
	}
	testenv.Eventually(o.t, time.Until(at)+turnPatience, comes)
	i := o.get(o.id)
	begun, sent := o.model.asked().Sub(at), came[0].Sub(at)
	o.t.Logf("woken by %s, %s, %s before it was due, which took %s", i.Last.By, i.Last.Kind, at.Sub(i.Last.Started).Round(time.Second), i.Last.Took.Round(time.Millisecond))
	o.t.Logf("the model was asked %s after it was due (%s after a message to OpenClaw awake), and it was sent %s after", begun.Round(time.Millisecond), turn.Round(time.Millisecond), sent.Round(time.Millisecond))
	if i.Last.By.Kind != mvm.AskerTimer || (i.Last.Kind == "cold") != boots {
		o.t.Errorf("it was woken by %s, %s", i.Last.By, i.Last.Kind)
	}
	if begun < 0 {
		o.t.Errorf("the turn of the reminder began %s before it was due", -begun)
	}
	o.rest() // then it has nothing left to do
	if err := comes(); err != nil || len(came) != 1 {
		o.t.Errorf("the reminder came %d times", len(came))
	}
	o.ranOnce(at)
}

// cronRun is a run of a scheduled job, as OpenClaw has it on record.
type cronRun struct {
	Status string
	At     int64 // ms since 1970, by the guest's clock
	Done   int64
	Error  string
}

const readCronRuns = `const { DatabaseSync } = require("node:sqlite");
const db = new DatabaseSync("/data/openclaw/state/openclaw.sqlite", { readOnly: true });
const rows = db.prepare("SELECT status, started_at_ms AS at, finished_at_ms AS done, error_text AS error FROM cron_run_receipts ORDER BY started_at_ms").all();
console.log(JSON.stringify(rows));`

// ranOnce checks that OpenClaw ran one job around the time, and prints when it began.
func (o *openClaw) ranOnce(due time.Time) {
	o.t.Helper()
	o.do(o.id, mvm.OpWake)
	out, err := o.exec(o.id, "/usr/local/bin/node", "-e", readCronRuns)
	must(o.t, err)
	var all []cronRun
	must(o.t, json.Unmarshal([]byte(out), &all))
	runs := slices.DeleteFunc(slices.Clone(all), func(r cronRun) bool { return due.Sub(time.UnixMilli(r.At)) > reminderLate })
	if len(runs) != 1 || runs[0].Status != "ok" {
		o.t.Fatalf("OpenClaw has on record %+v, want one run around %s", all, due)
	}
	late := time.UnixMilli(runs[0].At).Sub(due)
	o.t.Logf("OpenClaw began it %s after it was due, and ended it %s later", late, time.Duration(runs[0].Done-runs[0].At)*time.Millisecond)
	if late < -time.Second || late > reminderLate {
		o.t.Errorf("OpenClaw began it %s after it was due", late)
	}
}
