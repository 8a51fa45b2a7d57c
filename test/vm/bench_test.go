package vm_test

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"mvm"
)

// rounds is how often the benchmark puts the instance to sleep and wakes it.
const rounds = 20

// What is measured. Of plain QEMU's answers each is measured in half of the rounds.
const (
	plainWake   = "plain QEMU, restored and running"
	plainAnswer = "  its guest agent has answered"
	plainByte   = "  its workload's first byte, asked directly"
	mvmWake     = "mvm wake, request at the gateway to first byte"
	mvmWakeOp   = "  of it the agent's wake"
	mvmAwake    = "mvm request to first byte, awake"
	plainSleep  = "plain QEMU, stopped and saved"
	mvmSleep    = "mvm sleep"
)

// minimalPool serves a page from a guest of builtin:minimal.
const minimalPool = `
[[pools]]
id = "workers"
flake = "builtin:minimal"
vcpus = 1
mem_mib = 256
desired_running = 1
env = { MVM_COMMAND = "mkdir -p /tmp/www && echo hello > /tmp/www/index.html && exec httpd -f -p 8000 -h /tmp/www", MVM_READY_TCP = "8000" }
[[pools]]
id = "people"
flake = "builtin:minimal"
`

// BenchmarkSleepWake measures what a user waits for: the time from a request at the
// gateway to the first byte from a workload in a sleeping guest of 256 MiB, beside
// the time that plain QEMU needs to restore the same snapshot and run it. Sleep
// likewise. It makes 20 rounds whatever -benchtime says, and prints medians.
func BenchmarkSleepWake(b *testing.B) {
	h := newHost(b, "qemu")
	h.deploy(gatewayPool + minimalPool)
	web, id := h.web(), h.only("workers").ID
	h.do(id, mvm.OpSleep)
	firstByte(b, web)
	p := newPlain(b, h, id)
	for b.Loop() {
		m, bytes := measures{}, []int64(nil)
		for n := range rounds {
			began := time.Now()
			h.do(id, mvm.OpSleep)
			m.add(mvmSleep, time.Since(began))
			m.stages("sleep", h.get(id))
			s, err := h.client.Stats(h.ctx(), mvm.Address{Instance: id})
			must(b, err)
			bytes = append(bytes, s.SleeperBytes)
			p.copySnapshot(h, id)
			workload := n%2 == 0
			runs, answers := p.restore(h.ctx(), workload)
			m.add(plainWake, runs)
			if workload {
				m.add(plainByte, answers)
			} else {
				m.add(plainAnswer, answers)
			}
			m.add(plainSleep, p.save(h.ctx()))
			m.add(mvmWake, firstByte(b, web))
			i := h.get(id)
			if i.Last.Kind != "warm" {
				b.Fatalf("the wake was %s: %s", i.Last.Kind, i.Last.Reason)
			}
			m.add(mvmWakeOp, i.Last.Took)
			m.stages("wake", i)
			m.add(mvmAwake, firstByte(b, web))
		}
		slices.Sort(bytes)
		m.report(b, bytes[len(bytes)/2])
	}
}

// firstByte is askFirstByte, which must go well.
func firstByte(b *testing.B, addr string) time.Duration {
	b.Helper()
	took, err := askFirstByte(addr)
	must(b, err)
	return took
}

// askFirstByte asks for a page and returns the time to its first byte.
func askFirstByte(addr string) (time.Duration, error) {
	began := time.Now()
	c, err := net.DialTimeout("tcp", addr, 30*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(began.Add(patience)); err != nil {
		return 0, err
	}
	if _, err = fmt.Fprintf(c, "GET /index.html HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", addr); err != nil {
		return 0, err
	}
	head := make([]byte, 15)
	_, err = io.ReadFull(c, head)
	if err == nil && string(head) != "HTTP/1.1 200 OK" && string(head) != "HTTP/1.0 200 OK" {
		err = fmt.Errorf("the answer begins with %q", head)
	}
	return time.Since(began), err
}

// measures are times by what was measured.
type measures map[string][]time.Duration

func (m measures) add(what string, took time.Duration) { m[what] = append(m[what], took) }

func (m measures) stages(op string, i mvm.Instance) {
	for _, s := range i.Last.Stages {
		m.add(op+" stage "+s.Name, s.Took)
	}
}

func (m measures) median(what string) time.Duration {
	all := slices.Sorted(slices.Values(m[what]))
	if len(all) == 0 {
		return 0
	}
	return all[len(all)/2]
}

// report prints the medians, with each figure's ratio to plain QEMU of the same run.
func (m measures) report(b *testing.B, sleeper int64) {
	ms := func(what string) float64 { return float64(m.median(what).Microseconds()) / 1000 }
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	line := func(what, than string) {
		all := slices.Sorted(slices.Values(m[what]))
		if len(all) == 0 {
			return
		}
		fmt.Fprintf(w, "%s\t%.1f ms\t(%.1f to %.1f)", what, ms(what), all[0].Seconds()*1000, all[len(all)-1].Seconds()*1000)
		if than != "" {
			fmt.Fprintf(w, "\t%.2f of %q", ms(what)/ms(than), strings.TrimSpace(than))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\nmedians of %d rounds\n", rounds)
	for _, l := range [][2]string{{plainWake, ""}, {plainAnswer, plainWake}, {plainByte, plainWake}, {mvmWake, plainWake}, {mvmWake, plainByte},
		{mvmWakeOp, plainWake}, {mvmAwake, ""}, {plainSleep, ""}, {mvmSleep, plainSleep}} {
		line(l[0], l[1])
	}
	fmt.Fprintf(w, "a sleeper holds on disk\t%.1f MiB\n", float64(sleeper)/(1<<20))
	for _, s := range slices.Sorted(func(yield func(string) bool) {
		for what := range m {
			if strings.Contains(what, " stage ") && !yield(what) {
				return
			}
		}
	}) {
		line(s, "")
	}
	must(b, w.Flush())
	fmt.Print(out.String()) // a log is cut after ten lines
	b.ReportMetric(ms(mvmWake), "wake-ms")
	b.ReportMetric(ms(plainWake), "plain-wake-ms")
	b.ReportMetric(ms(plainByte), "plain-byte-ms")
	b.ReportMetric(ms(mvmWake)/ms(plainWake), "wake-ratio")
	b.ReportMetric(ms(mvmWake)/ms(plainByte), "byte-ratio")
	b.ReportMetric(ms(mvmSleep), "sleep-ms")
	b.ReportMetric(ms(plainSleep), "plain-sleep-ms")
	b.ReportMetric(ms(mvmSleep)/ms(plainSleep), "sleep-ratio")
	b.ReportMetric(float64(sleeper)/(1<<20), "sleeper-MiB")
}
