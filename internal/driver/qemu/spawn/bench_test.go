package spawn_test

import (
	"bufio"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/jail"
	"mvm/internal/testenv"
)

// BenchmarkLaunch starts QEMU behind all walls and behind none in turn, until it greets, and
// reports medians in milliseconds and what the walls add:
//
//	go test -run '^$' -bench Launch -benchtime 40x ./internal/driver/qemu/spawn
func BenchmarkLaunch(b *testing.B) {
	testenv.NeedRoot(b)
	var hosts [2]*spawn.Local
	for n, j := range []jail.Jail{{On: true, Required: true}, {}} {
		h, err := spawn.New(spawn.Options{Jail: j})
		must(b, err)
		hosts[n] = h
	}
	var took [2][]time.Duration
	for round := 0; b.Loop(); round++ {
		for i := range hosts {
			n := (i + round) % 2
			w := newFiles(b)
			begun := time.Now()
			p, cgroups, err := hosts[n].Launch(b.Context(), w.Launch)
			must(b, err)
			greeted(b, filepath.Join(w.dir, "qmp"))
			took[n] = append(took[n], time.Since(begun))
			must(b, p.Kill(b.Context()))
			_, _, _, err = p.Wait()
			must(b, err)
			must(b, p.Close())
			must(b, hosts[n].Leave(b.Context(), vmproc.Name{ID: w.ID, RunDir: w.RunDir}, w.Cgroup, cgroups))
		}
	}
	var median [2]float64
	for n := range took {
		slices.Sort(took[n])
		median[n] = float64(took[n][len(took[n])/2].Microseconds()) / 1000
	}
	b.ReportMetric(median[0], "jailed-ms")
	b.ReportMetric(median[1], "plain-ms")
	b.ReportMetric(median[0]-median[1], "added-ms")
}

// greeted waits for QEMU's first words.
func greeted(t testing.TB, path string) {
	t.Helper()
	c, err := net.Dial("unix", path)
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = bufio.NewReader(c).ReadString('\n')
	must(t, err)
}
