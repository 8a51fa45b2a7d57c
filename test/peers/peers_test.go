package peers_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/agent"
	"mvm/internal/driver/fake"
	"mvm/internal/image"
	"mvm/internal/image/fakeimage"
	"mvm/internal/network/fakenet"
	"mvm/internal/publish"
	"mvm/internal/secrets"
	"mvm/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	deathsFlag = flag.Int("deaths", 50, "how many instances end")
	seedFlag   = flag.Uint64("seed", 11, "what is random")
)

const (
	perDeath = 20               // requests at each death
	told     = 5 * time.Second  // within which each client must have been told
	patience = 20 * time.Second // after which a client counts as hanging
)

// world is a host with a gateway and a worker.
type world struct {
	t   *testing.T
	rng *rand.Rand
	net *network
	a   *agent.Agent
	web string

	worker, gateway mvm.Instance
	did             map[string]int
	got             map[string]int
	longest         time.Duration
}

// TestDeaths ends workers and gateways in every way that takes their memory, with
// requests and streams under way: each client has an answer or an error soon, none hangs,
// none takes what it got of a stream for the whole, and no request comes twice.
func TestDeaths(t *testing.T) {
	w := newWorld(t)
	for n := range *deathsFlag {
		w.death(n)
	}
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	for id, n := range w.net.came {
		if n > 1 {
			t.Errorf("request %s came %d times", id, n)
		}
	}
	t.Logf("seed %d: %d requests, %d of which came to a worker; deaths %v; clients got %v; the last one was told after %s", *seedFlag,
		*deathsFlag*perDeath, len(w.net.came), w.did, w.got, w.longest.Round(time.Millisecond))
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(*seedFlag, 0)), did: map[string]int{}, got: map[string]int{}}
	host := fake.NewHost()
	t.Cleanup(host.Close)
	w.net = &network{host: host, machines: map[string]*machine{}, addrs: map[netip.Addr]string{}, came: map[string]int{}}
	host.Route(func(id string) fake.Router {
		if i, err := w.a.Instance(context.Background(), mvm.Address{Instance: id}); err != nil || i.Role != mvm.RoleGateway {
			return nil
		}
		return w.net.route(id)
	})
	w.open(host)
	must(t, ignore(w.a.CreateTenant(w.ctx(), mvm.TenantSpec{ID: "acme"})))
	spec := pool("gateways")
	spec.Role, spec.Publish = mvm.RoleGateway, []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 8080}}
	spec.Routes = &mvm.RoutingTable{Routes: []mvm.Route{{Name: "web", Match: mvm.MatchRule{Port: 8080, PathPrefix: "/"},
		To: mvm.Target{PoolID: "workers", Selector: mvm.Selector{Kind: mvm.SelectAny}, TargetPort: 80}}}}
	for _, s := range []mvm.PoolSpec{pool("workers"), spec} {
		must(t, ignore(w.a.CreatePool(w.ctx(), "acme", s)))
		must(t, ignore(w.a.BuildPool(w.ctx(), "acme", s.ID, nil)))
	}
	w.worker, w.gateway = w.make("workers"), w.make("gateways")
	p, err := w.a.Pool(w.ctx(), "acme", "gateways")
	must(t, err)
	w.web = p.Bound[0].String()
	return w
}

// open starts the agent.
func (w *world) open(host *fake.Host) {
	run, err := os.MkdirTemp("", "mvm") // short: unix sockets
	must(w.t, err)
	w.t.Cleanup(func() { _ = os.RemoveAll(run) })
	dir, log := w.t.TempDir(), slog.New(slog.DiscardHandler)
	key, err := secrets.NewKey([]byte(strings.Repeat("k", secrets.KeySize)))
	must(w.t, err)
	st, err := store.Open(filepath.Join(dir, "state.db"))
	must(w.t, err)
	images, err := image.Open(filepath.Join(dir, "images"), []image.Builder{fakeimage.New("builtin:")}, log)
	must(w.t, err)
	ends := func(_ context.Context, op fake.Op, id string) error {
		if op == fake.OpKill {
			w.net.end(id)
		}
		return nil
	}
	w.a = agent.New(agent.Options{DataDir: dir, RunDir: run, Version: "test", Store: st, Driver: fake.New(host, fake.Options{Hook: ends}),
		Network: fakenet.New(), Images: images, Sealer: key, Publisher: publish.New(publish.Options{}), Log: log,
		MakeDisk: func(context.Context, *os.File, int) error { return nil }, Reconcile: -1, DialGuest: w.net.dialGateway})
	must(w.t, w.a.Open(context.Background()))
	w.t.Cleanup(func() {
		must(w.t, errors.Join(w.a.Close(), st.Close()))
		for _, m := range w.net.all {
			m.die()
		}
	})
}

func pool(id string) mvm.PoolSpec {
	return mvm.PoolSpec{ID: id, Role: mvm.RoleWorker, Profile: "minimal", Flake: "builtin:minimal",
		Resources: mvm.Resources{VCPUs: 1, MemMiB: 128}, Policy: mvm.RuntimePolicy{DrainTimeoutSeconds: 1, GracefulShutdownSeconds: 1}}
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	w.t.Cleanup(cancel)
	return mvm.WithAsker(ctx, mvm.Asker{Kind: mvm.AskerUnknown, ID: "test"})
}

// make makes an instance and starts it.
func (w *world) make(pool string) mvm.Instance {
	w.t.Helper()
	i, err := w.a.CreateInstance(w.ctx(), "acme", pool, "")
	must(w.t, err)
	w.net.at(i)
	return w.do(i.ID, mvm.OpStart, false)
}

func (w *world) do(id string, op mvm.OpKind, force bool) mvm.Instance {
	w.t.Helper()
	i, err := w.a.Operate(w.ctx(), mvm.Address{Instance: id}, mvm.OpRequest{Op: op, Force: force}, nil)
	must(w.t, err)
	return i
}

// death has requests under way, ends an instance and looks at what their clients get.
func (w *world) death(n int) {
	w.t.Helper()
	// Each request has a connection of its own: on one that was used before, the client
	// itself would send it again.
	tr := &http.Transport{DisableKeepAlives: true}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for k := range 3 { // so that connections are pooled
		if got := w.exchange(ctx, tr, "GET", fmt.Sprintf("?how=quick&id=warm-%d-%d", n, k)); got != "200" {
			w.t.Fatalf("death %d: before it a client got %s", n, got)
		}
	}
	type end struct {
		what, got string
		at        time.Time
	}
	ends := make(chan end, perDeath)
	var wg sync.WaitGroup
	defer wg.Wait()
	start := func(k int, quick bool) {
		wg.Go(func() {
			what, got := w.request(ctx, tr, fmt.Sprintf("%d-%d", n, k), k, quick)
			ends <- end{what, got, time.Now()}
		})
	}
	const late = 4 // as many come just when it ends
	for k := range perDeath - late {
		start(k, false)
	}
	w.await(n, perDeath-late)
	victim := &w.worker
	if w.rng.IntN(3) == 0 {
		victim = &w.gateway
	}
	for k := range late {
		start(perDeath-late+k, true)
	}
	time.Sleep(time.Duration(w.rng.IntN(2000)) * time.Microsecond)
	died := time.Now()
	how := w.kill(victim)
	for range perDeath {
		e := <-ends
		w.got[e.got]++
		w.longest = max(w.longest, e.at.Sub(died))
		quick := strings.HasSuffix(e.what, "quick")
		if e.got == "whole" || e.got == "hangs" || !quick && e.got == "200" || e.at.Sub(died) > told {
			w.t.Errorf("death %d, %s: %s: %s, %s after it", n, how, e.what, e.got, e.at.Sub(died))
		}
	}
}

// await waits until as many requests of the death have come to the worker.
func (w *world) await(n, want int) {
	w.t.Helper()
	prefix := fmt.Sprintf("%d-", n)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		have := 0
		w.net.mu.Lock()
		for id := range w.net.came {
			if strings.HasPrefix(id, prefix) {
				have++
			}
		}
		w.net.mu.Unlock()
		if have == want {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d of %d requests have come", have, want)
		}
	}
}

// kill ends the instance in one of the ways and has another in its place.
func (w *world) kill(i *mvm.Instance) (how string) {
	w.t.Helper()
	how = []string{"kill", "forced stop", "destroy", "panic"}[w.rng.IntN(4)]
	w.did[string(i.Role)+" "+how]++
	switch how {
	case "kill", "panic":
		w.net.end(i.ID)
		if !w.net.host.Crash(i.ID) {
			w.t.Fatalf("%s has no VMM", i.ID)
		}
		_, _ = w.a.Operate(w.ctx(), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpStop}, nil) // waits for what the agent does
	case "forced stop":
		w.do(i.ID, mvm.OpStop, true)
	case "destroy":
		w.do(i.ID, mvm.OpDestroy, true)
		*i = w.make(i.Pool)
		return string(i.Role) + " " + how
	}
	*i = w.do(i.ID, mvm.OpStart, false)
	return string(i.Role) + " " + how
}

// request makes one request of the kth kind, which is never answered in full unless it
// is quick.
func (w *world) request(ctx context.Context, tr *http.Transport, id string, k int, quick bool) (what, got string) {
	if quick {
		method := []string{"GET", "POST"}[k%2]
		return method + " quick", w.exchange(ctx, tr, method, "?how=quick&id="+id)
	}
	switch k % 5 {
	case 0:
		return "GET", w.exchange(ctx, tr, "GET", "?id="+id)
	case 1:
		return "HEAD", w.exchange(ctx, tr, "HEAD", "?id="+id)
	case 2:
		return "POST with a key", w.exchange(ctx, tr, "POST", "?id="+id)
	case 3:
		return "stream of events", w.exchange(ctx, tr, "GET", "?how=events&id="+id)
	}
	c, resp, err := websocket.Dial(ctx, "ws://"+w.web+"/?how=ws&id="+id, nil)
	if err != nil {
		return "WebSocket", outcome(ctx, err)
	}
	if resp.Body != nil {
		defer resp.Body.Close()
	}
	defer func() { _ = c.CloseNow() }()
	_, _, err = c.Read(ctx)
	return "WebSocket", outcome(ctx, err)
}

// exchange makes an HTTP request and says what came of it: the status of a whole answer,
// or as outcome does.
func (w *world) exchange(ctx context.Context, tr *http.Transport, method, query string) string {
	var body io.Reader
	if method == "POST" {
		body = strings.NewReader("once")
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+w.web+"/"+query, body)
	must(w.t, err)
	if body != nil {
		req.Header.Set("Idempotency-Key", "once")
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return outcome(ctx, err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		return outcome(ctx, err)
	}
	return fmt.Sprint(resp.StatusCode)
}

// outcome is "whole" for a stream that ended well, "hangs" for one that did not end, and
// "cut" for one whose client saw an error.
func outcome(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return "whole"
	case ctx.Err() != nil:
		return "hangs"
	}
	return "cut"
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ignore[T any](_ T, err error) error { return err }
