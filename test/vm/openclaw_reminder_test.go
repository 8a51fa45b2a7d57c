package vm_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/testenv"
)

var remindFlag = flag.Duration("remind-in", 0, "how far ahead TestOpenClawReminders sets reminders; 0: it is skipped")

// TestOpenClawReminders: a reminder that the user of a bot sets by chat wakes the sleeping
// OpenClaw and is sent once, also where its memory is lost and it boots. It prints how late: a
// boot of OpenClaw takes minutes without KVM.
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
	since, written := len(o.bot.Sent()), time.Now()
	o.bot.Write(7, 7, fmt.Sprintf("remind me in %d seconds to drink water", int(remindFlag.Seconds())))
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
	if time.Until(at) < time.Minute/2 {
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
	o.t.Logf("woken by %s, %s: the model was asked %s after it was due (%s after a message to OpenClaw awake), and it was sent %s after", i.Last.By, i.Last.Kind, begun.Round(time.Millisecond), turn.Round(time.Millisecond), sent.Round(time.Millisecond))
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
}
