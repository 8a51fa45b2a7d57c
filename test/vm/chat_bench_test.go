package vm_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"mvm"
	"mvm/internal/testenv"
	"mvm/test/botapi"
)

// chatRoundsFlag is how often BenchmarkChat measures each state of the worker.
var chatRoundsFlag = flag.Int("chat-rounds", 12, "messages to a worker in each state in BenchmarkChat; a quarter of them to OpenClaw, and one to one that boots")

// States of a worker that a message finds, and what is measured of each.
const (
	chatAwake  = "awake"
	chatPaused = "paused in memory"
	chatAsleep = "asleep, from its snapshot"
	chatBoot   = "asleep, its snapshot lost: boots"
)

var (
	chatStates = []string{chatAwake, chatPaused, chatAsleep, chatBoot}
	chatSteps  = []string{"typing", "accepted", "answered"}
)

// correspondent writes to a bot whose worker is in a state, and looks at the times.
type correspondent struct {
	*host
	api  *botapi.Server
	id   string
	idle func() error // nil where the worker has nothing to do
	m    measures
	held map[string][]int64 // bytes of the host's memory by state; of one that sleeps, of its disk
	n    int
}

// BenchmarkChat measures what a user of a bot waits for: from the message at the Bot API to the
// first sign of typing, until the worker has it on its disk and Telegram is told so, and until
// the answer is at the Bot API; by the state in which the message finds the worker. The worker
// is a small program that answers at once, so all of the time is mvm's and the guest's.
func BenchmarkChat(b *testing.B) {
	h := newTalk(b, chatWorkers())
	h.api.Write(7, 7, "hello")
	h.answered("hello")
	c := &correspondent{host: h.host, api: h.api, id: h.only("workers").ID, m: measures{}, held: map[string][]int64{}}
	c.idle = func() error {
		_, err := h.exec(c.id, "true") // it is done a moment after its answer
		return err
	}
	for b.Loop() {
		c.rounds(chatStates, *chatRoundsFlag)
		c.report(b, "a worker that answers at once", *chatRoundsFlag)
	}
}

// BenchmarkChatOpenClaw is BenchmarkChat with the demo's assistant, the real OpenClaw, and a
// model that answers at once. It makes few rounds: a turn takes seconds to minutes without KVM, and
// a boot as long as turnPatience on a busy machine.
func BenchmarkChatOpenClaw(b *testing.B) {
	rounds := max(1, *chatRoundsFlag/4)
	h := newHost(b, "qemu")
	h.demo()
	o := h.openClaw()
	c := &correspondent{host: h, api: o.bot, id: o.id, m: measures{}, held: map[string][]int64{}}
	c.idle = func() error { // it refuses to rest while it has something to do
		_, err := h.try(c.id, mvm.OpWarm)
		if err == nil {
			_, err = h.try(c.id, mvm.OpWake)
		}
		return err
	}
	for b.Loop() {
		c.rounds([]string{chatAwake, chatPaused, chatAsleep}, rounds)
		c.rounds([]string{chatBoot}, 1)
		c.report(b, "the real OpenClaw", rounds)
	}
}

// rounds writes so many messages to a worker in each of the states, in turns.
func (c *correspondent) rounds(states []string, n int) {
	for range n {
		for _, state := range states {
			c.find(state)
			c.write(state)
		}
	}
}

// find has the worker in the state, with nothing to do.
func (c *correspondent) find(state string) {
	c.t.Helper()
	c.do(c.id, mvm.OpWake)
	op := map[string]mvm.OpKind{chatAwake: mvm.OpWake, chatPaused: mvm.OpWarm, chatAsleep: mvm.OpSleep, chatBoot: mvm.OpSleep}[state]
	testenv.Eventually(c.t, turnPatience, func() error { // what follows a turn may take long
		err := c.idle()
		if err == nil {
			_, err = c.try(c.id, op)
		}
		return err
	})
	s, err := c.client.Stats(c.ctx(), mvm.Address{Instance: c.id})
	must(c.t, err)
	if held := max(s.RSSBytes, s.SleeperBytes); held > 0 {
		c.held[state] = append(c.held[state], held)
	}
	if state == chatBoot {
		c.loseSnapshot(c.id)
	}
}

// write writes a message and waits for its answer.
func (c *correspondent) write(state string) {
	c.t.Helper()
	c.n++
	text := fmt.Sprintf("message %03d", c.n)
	sent, polls, began := len(c.api.Sent()), len(c.api.Calls("getUpdates")), time.Now()
	c.api.Write(7, 7, text)
	testenv.Eventually(c.t, 3*turnPatience, func() error { // it may boot before
		if n := slices.IndexFunc(c.api.Sent()[sent:], func(s botapi.Sent) bool { return strings.Contains(s.Text, text) }); n >= 0 && len(c.api.Pending()) == 0 {
			c.m.add(state+": answered", c.api.Sent()[sent+n].At.Sub(began))
			c.t.Logf("%s, %s: answered after %s", text, state, c.api.Sent()[sent+n].At.Sub(began).Round(time.Millisecond))
			return nil
		}
		return fmt.Errorf("%s, %s: no answer; %d updates wait", text, state, len(c.api.Pending()))
	})
	after := func(what, method string, skip int, counts func(botapi.Call) bool) {
		for _, call := range c.api.Calls(method)[skip:] {
			if call.At.After(began) && counts(call) {
				c.m.add(state+": "+what, call.At.Sub(began))
				return
			}
		}
		c.t.Errorf("%s, %s: no %s", text, state, method)
	}
	after("typing", "sendChatAction", 0, func(botapi.Call) bool { return true })
	after("accepted", "getUpdates", polls, func(call botapi.Call) bool { return call.Params["offset"] != nil })
	c.wakeStages(state)
}

// wakeStages notes where the time of the worker's wake went.
func (c *correspondent) wakeStages(state string) {
	if state == chatAwake {
		return
	}
	i := c.get(c.id)
	if want := map[string]string{chatPaused: "warm", chatAsleep: "warm", chatBoot: "cold"}[state]; string(i.Last.Kind) != want || i.Last.By.Kind != mvm.AskerChannel {
		c.t.Errorf("%s: it was woken by %s, %s", state, i.Last.By, i.Last.Kind)
	}
	c.m.add(state+": the agent's wake", i.Last.Took)
	for _, s := range i.Last.Stages {
		if s.Took >= time.Millisecond {
			c.m.add(state+":   "+s.Name, s.Took)
		}
	}
}

// report prints the medians, each with its spread and its ratio to the same of a worker that is
// awake.
func (c *correspondent) report(b *testing.B, with string, rounds int) {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\na message at the Bot API to %s, medians of %d\n", with, rounds)
	for _, state := range chatStates {
		steps := slices.Clone(chatSteps)
		steps = append(steps, slices.Sorted(func(yield func(string) bool) {
			for key := range c.m {
				if of, what, _ := strings.Cut(key, ": "); of == state && !slices.Contains(chatSteps, what) && !yield(what) {
					return
				}
			}
		})...)
		for _, what := range steps {
			all := slices.Sorted(slices.Values(c.m[state+": "+what]))
			if len(all) == 0 {
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%.1f ms\t(%.1f to %.1f)", state, what, ms(all[len(all)/2]), ms(all[0]), ms(all[len(all)-1]))
			if awake := c.m.median(chatAwake + ": " + what); awake > 0 && state != chatAwake {
				fmt.Fprintf(w, "\t%.2f of awake", ms(all[len(all)/2])/ms(awake))
			}
			fmt.Fprintln(w)
			if slices.Contains(chatSteps, what) {
				name, _, _ := strings.Cut(cmp.Or(map[string]string{chatBoot: "boot"}[state], state), " ")
				b.ReportMetric(ms(all[len(all)/2]), strings.TrimSuffix(name, ",")+"-"+what+"-ms")
			}
		}
	}
	for _, state := range chatStates[:3] {
		if all := slices.Sorted(slices.Values(c.held[state])); len(all) > 0 {
			fmt.Fprintf(w, "%s\tholds\t%.0f MiB\t(%.0f to %.0f)\n", state, float64(all[len(all)/2])/(1<<20), float64(all[0])/(1<<20), float64(all[len(all)-1])/(1<<20))
		}
	}
	must(b, w.Flush())
	fmt.Fprint(os.Stdout, out.String()) // a log is cut after ten lines
}
