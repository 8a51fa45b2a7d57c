package vm_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mvm"
	"mvm/internal/testenv"
)

var (
	peersFlag = flag.Int("peers", 4, "how many deaths TestPeers goes through")
	seedFlag  = flag.Uint64("peers-seed", 11, "the seed of TestPeers")
)

// peersPerDeath is how many requests are under way at each death.
const peersPerDeath = 20

// told is within what time after a death each client must have been told.
const told = 5 * time.Second

// TestPeers ends workers and gateways in every way that takes their memory, while requests
// and streams are under way to them: each client gets an error soon, none hangs, none takes
// what it got for a whole answer, and no request comes a second time. -peers and
// -peers-seed say how often and which.
func TestPeers(t *testing.T) {
	p := &peers{host: newHost(t, "qemu"), rng: rand.New(rand.NewPCG(*seedFlag, 0)), came: map[string]int{}, did: map[string]int{}}
	p.deploy(gatewayPool + workerPool("workers", 1) + "min_running_seconds = 0\n" + workerPool("people", 0))
	for n := range *peersFlag {
		p.death(n)
	}
	p.count(p.worker())
	for id, n := range p.came {
		if n > 1 {
			t.Errorf("request %s came %d times", id, n)
		}
	}
	if want := *peersFlag * peersPerDeath; len(p.came) != want {
		t.Errorf("%d requests came, want %d", len(p.came), want)
	}
	t.Logf("seed %d: %d requests, deaths %v, the last client was told after %s", *seedFlag, len(p.came), p.did, p.longest.Round(time.Millisecond))
}

// peers is a host with requests under way.
type peers struct {
	*host
	rng     *rand.Rand
	came    map[string]int // by id of the request, how often it came to a worker
	did     map[string]int
	longest time.Duration
}

// death has requests under way, ends an instance, and looks at what their clients get.
func (p *peers) death(n int) {
	p.t.Helper()
	web, worker := p.bound(0), p.worker()
	// Each request has a connection of its own: on one that was used before, the client
	// itself would send it again.
	tr := &http.Transport{DisableKeepAlives: true}
	ends := make(chan end, peersPerDeath)
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer func() { cancel(); wg.Wait() }()
	for k := range peersPerDeath {
		wg.Go(func() { ends <- request(ctx, tr, web, fmt.Sprintf("%d-%d", n, k), k) })
	}
	testenv.Eventually(p.t, patience, func() error {
		list, err := p.exec(worker.ID, "sh", "-c", "cat /data/once && sync") // what is listed outlives a crash
		if have := strings.Count("\n"+list, fmt.Sprintf("\n%d-", n)); err == nil && have != peersPerDeath {
			err = fmt.Errorf("%d of %d requests have come", have, peersPerDeath)
		}
		return err
	})
	victim := worker
	if p.rng.IntN(3) == 0 {
		victim = p.only("gateways")
	}
	died := p.kill(victim, worker)
	for range peersPerDeath {
		e := <-ends
		after := e.at.Sub(died)
		p.longest = max(p.longest, after)
		if e.err == nil || errors.Is(e.err, context.DeadlineExceeded) || after > told {
			p.t.Errorf("death %d, of a %s: %s: %v, %s after it", n, victim.Role, e.what, e.err, after)
		}
	}
	p.t.Logf("death %d: %v so far, the last client was told after %s", n, p.did, p.longest.Round(time.Millisecond))
}

// worker returns the one worker. One that somebody stopped stays so until a request wakes
// it.
func (p *peers) worker() (w mvm.Instance) {
	p.t.Helper()
	testenv.Eventually(p.t, patience, func() error {
		code, body, err := fetch(p.ctx(), p.bound(0), "/hello")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
	testenv.Eventually(p.t, patience, func() error {
		for _, i := range p.instances() {
			if i.Pool == "workers" && i.State == mvm.StateRunning && i.Ready {
				w = i
				return nil
			}
		}
		return errors.New("there is no worker")
	})
	return w
}

// count adds up what came to the worker. Its record may not say yet that it died, so it
// is asked until it answers; what came is on its disk.
func (p *peers) count(w mvm.Instance) {
	p.t.Helper()
	list := ""
	testenv.Eventually(p.t, patience, func() (err error) {
		list, err = p.exec(w.ID, "cat", "/data/once")
		return err
	})
	_, err := p.exec(w.ID, "sh", "-c", ": > /data/once; sync")
	must(p.t, err)
	for _, id := range strings.Fields(list) {
		p.came[id]++
	}
}

// kill ends the instance in one of the ways, and returns when its VMM was gone.
func (p *peers) kill(i, worker mvm.Instance) time.Time {
	p.t.Helper()
	st, err := p.client.Stats(p.ctx(), i.Address())
	must(p.t, err)
	how := []string{"kill", "forced stop", "destroy", "panic"}[p.rng.IntN(4)]
	if how == "panic" && i.Role == mvm.RoleGateway {
		how = "kill" // its image has no program that could bring the kernel down
	}
	p.did[string(i.Role)+" "+how]++
	if how == "destroy" && i.ID == worker.ID {
		p.count(worker) // its disk goes, too
	}
	done := make(chan error, 1)
	switch how {
	case "kill":
		must(p.t, syscall.Kill(st.PID, syscall.SIGKILL))
		done <- nil
	case "panic":
		go func() {
			code, err := p.client.Exec(p.ctx(), i.Address(), mvm.ExecSpec{Argv: []string{"sh", "-c", "echo c > /proc/sysrq-trigger"}},
				mvm.ExecIO{Stdout: io.Discard, Stderr: io.Discard})
			if err == nil {
				err = fmt.Errorf("the guest was to panic, and the command ended with %d", code)
			} else {
				err = nil // the command ends with its guest
			}
			done <- err
		}()
	default:
		op := map[string]mvm.OpKind{"forced stop": mvm.OpStop, "destroy": mvm.OpDestroy}[how]
		go func() {
			_, err := p.client.Operate(p.ctx(), i.Address(), mvm.OpRequest{Op: op, Force: true}, nil)
			done <- err
		}()
	}
	testenv.Eventually(p.t, patience, func() error {
		if err := syscall.Kill(st.PID, 0); err == nil {
			return fmt.Errorf("after a %s the VMM %d is there", how, st.PID)
		}
		return nil
	})
	died := time.Now()
	must(p.t, <-done)
	return died
}

// end is what a client got, and when.
type end struct {
	what string
	err  error // nil: what it takes for a whole answer
	at   time.Time
}

// request makes one request that is never answered in full, of the kth kind.
func request(ctx context.Context, tr *http.Transport, web, id string, k int) end {
	url := "http://" + web + "/once?id=" + id
	kinds := []func() (string, error){
		func() (string, error) { return "GET", exchange(ctx, tr, "GET", url) },
		func() (string, error) { return "HEAD", exchange(ctx, tr, "HEAD", url) },
		func() (string, error) { return "POST with a key", exchange(ctx, tr, "POST", url) },
		func() (string, error) { return "stream of events", exchange(ctx, tr, "GET", url+"&how=events") },
		func() (string, error) {
			c, resp, err := websocket.Dial(ctx, "ws://"+web+"/once?how=ws&id="+id, nil)
			if err != nil {
				return "WebSocket", err
			}
			if resp.Body != nil {
				defer resp.Body.Close()
			}
			defer func() { _ = c.CloseNow() }()
			_, _, err = c.Read(ctx)
			return "WebSocket", err
		},
	}
	what, err := kinds[k%len(kinds)]()
	return end{what + " " + id, err, time.Now()}
}

// exchange makes an HTTP request, and returns an error but for a whole answer of a worker.
func exchange(ctx context.Context, tr *http.Transport, method, url string) error {
	var body io.Reader
	if method == "POST" {
		body = strings.NewReader("once")
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Idempotency-Key", "once")
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 500 {
		err = fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	return err
}
