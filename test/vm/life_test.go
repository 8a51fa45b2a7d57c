package vm_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/testenv"
)

// gatewayPool is a gateway that sends everything on port 8080 to the pool, and by
// the header X-User to pool people.
const gatewayPool = `
[tenant]
id = "acme"
quota = { max_instances_per_pool = 2, max_pools = 8 }
[[pools]]
id = "gateways"
role = "gateway"
flake = "builtin:gateway"
vcpus = 1
mem_mib = 256
desired_running = 1
publish = ["127.0.0.1:0:8080", "127.0.0.1:0:8081"]
[[pools.routes]]
name = "web"
match_rule = { port = 8080, path_prefix = "/" }
target = { pool_id = "workers", instance_selector = "any", target_port = 8000 }
[[pools.routes]]
name = "people"
match_rule = { port = 8081, path_prefix = "/" }
target = { pool_id = "people", instance_selector = { by_key = { from = "header:x-user" } }, target_port = 8000 }
`

// workerPool is a pool of the tests' workload.
func workerPool(id string, running int) string {
	return fmt.Sprintf(`
[[pools]]
id = %q
flake = %q
vcpus = 1
mem_mib = 256
data_disk_mib = 64
desired_running = %d
env = { MVM_COMMAND = "exec /bin/workload", MVM_READY_TCP = "8000" }
drain_timeout_seconds = 3
graceful_shutdown_seconds = 5
`, id, imageRef(imgWorkload), running)
}

// TestAssistants is the life of a tenant's assistants behind their gateway. For minutes
// of it the agent waits for a guest that never answers, so others run meanwhile.
func TestAssistants(t *testing.T) {
	t.Parallel()
	h := newHost(t, "qemu")
	h.deploy(gatewayPool + workerPool("workers", 1) + workerPool("people", 0) + mutePool + floodPool)
	web := h.web()
	mute := h.startMute()
	t.Run("cycles", func(t *testing.T) { h.on(t).testCycles(web) })
	t.Run("cp", func(t *testing.T) { h.on(t).testCopy() })
	t.Run("one wake for all", func(t *testing.T) { h.on(t).testConcurrent(web) })
	t.Run("a burst", func(t *testing.T) { h.on(t).testBurst(web) })
	t.Run("streaming", func(t *testing.T) { h.on(t).testStreaming(web) })
	t.Run("websocket", func(t *testing.T) { h.on(t).testWebSocket(web) })
	t.Run("secrets", func(t *testing.T) { h.on(t).testSecrets(web) })
	t.Run("request id", func(t *testing.T) { h.on(t).testRequest(h.bound(1)) })
	t.Run("by key", func(t *testing.T) { h.on(t).testByKey(h.bound(1)) })
	t.Run("other routes", func(t *testing.T) { h.on(t).testRoutes(web) })
	t.Run("network is as it should be", func(t *testing.T) { h.on(t).testVerify() })
	t.Run("a guest that floods its host", func(t *testing.T) { h.on(t).testFlood() })
	t.Run("a guest that never answers", func(t *testing.T) { h.on(t).testMute(mute) })
	t.Run("without its key", func(t *testing.T) { h.on(t).testKey() })
}

// on is the host for a part of its test.
func (h *host) on(t testing.TB) *host {
	c := *h
	c.t = t
	return &c
}

// bound is the host's address of the gateway's n-th published port.
func (h *host) bound(n int) string {
	h.t.Helper()
	p, err := h.client.Pool(h.ctx(), "acme", "gateways")
	must(h.t, err)
	return p.Bound[n].String()
}

// web is the address of the workers through the gateway.
func (h *host) web() string { return h.bound(0) }

// fetch gets a page, on a connection of its own.
func fetch(ctx context.Context, addr, path string, header ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr+path, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// page gets a page, which must be there.
func (h *host) page(addr, path string, header ...string) string {
	h.t.Helper()
	code, body, err := fetch(h.ctx(), addr, path, header...)
	if err != nil || code != http.StatusOK {
		h.t.Fatalf("get %s: %d %q %v\n%s", path, code, body, err, h.log())
	}
	return body
}

// testRoutes: routes that change come to the gateway that runs, which goes on.
func (h *host) testRoutes(web string) {
	gateway := h.only("gateways").ID
	vmm := h.vmm(gateway) // it has no program that says which boot it is
	p, err := h.client.Pool(h.ctx(), "acme", "gateways")
	must(h.t, err)
	was := p.Spec.Routes.Routes[0].Match.PathPrefix
	route := func(prefix string, here, there int) {
		h.t.Helper()
		p.Spec.Routes.Routes[0].Match.PathPrefix = prefix
		_, err := h.client.UpdatePool(h.ctx(), "acme", "gateways", mvm.PoolUpdate{Spec: &p.Spec})
		must(h.t, err)
		testenv.Eventually(h.t, patience, func() error {
			a, _, err1 := fetch(h.ctx(), web, "/hello")
			b, _, err2 := fetch(h.ctx(), web, "/time")
			if a != here || b != there {
				err := fmt.Errorf("routed below %s: /hello has %d and /time %d, want %d and %d", prefix, a, b, here, there)
				return errors.Join(err, err1, err2)
			}
			return nil
		})
	}
	route("/time", http.StatusNotFound, http.StatusOK)
	route(was, http.StatusOK, http.StatusOK)
	if now := h.only("gateways"); now.ID != gateway || now.State != mvm.StateRunning || h.vmm(gateway) != vmm {
		h.t.Errorf("for its routes the gateway was started anew: %+v", now.Last)
	}
}

// report is what the workload's writer says.
type report struct {
	Seq    uint64   `json:"seq"`
	PID    int      `json:"pid"`
	BootID string   `json:"boot_id"`
	Start  int64    `json:"start"`
	Faults []string `json:"faults"`
}

func (h *host) check(addr string) (r report) {
	h.t.Helper()
	must(h.t, json.Unmarshal([]byte(h.page(addr, "/check")), &r))
	return r
}

// cycles is how often the writer is put to sleep.
const cycles = 50

// maxClockError is what a guest's clock may be off after a wake.
const maxClockError = 50 * time.Millisecond

// testCycles puts an instance to sleep and wakes it, again and again, while a writer
// in it checks its file, its memory and its numbers.
func (h *host) testCycles(web string) {
	id := h.only("workers").ID
	before := h.check(web)
	var worst, worstSeen time.Duration
	for n := range cycles {
		h.do(id, mvm.OpSleep)
		i := h.do(id, mvm.OpWake)
		if i.Last.Kind != "warm" {
			h.t.Fatalf("wake %d was %s: %s", n, i.Last.Kind, i.Last.Reason)
		}
		off := h.clockError(web)
		worst, worstSeen = max(worst, i.Last.ClockError.Abs()), max(worstSeen, off.Abs())
		if off.Abs() >= maxClockError {
			h.t.Logf("after wake %d the clock is off by %v: %+v", n, off, *i.Last)
		}
		now := h.check(web)
		if len(now.Faults) > 0 {
			h.t.Fatalf("after wake %d: %s", n, strings.Join(now.Faults, "; "))
		}
		if now.Seq <= before.Seq || now.PID != before.PID || now.BootID != before.BootID || now.Start != before.Start {
			h.t.Fatalf("after wake %d: %+v, before the sleep %+v", n, now, before)
		}
		before = now
	}
	if worst >= maxClockError || worstSeen >= maxClockError {
		h.t.Errorf("the clock was off by up to %v as the agent says, and by %v at least as seen from here, want less than %v", worst, worstSeen, maxClockError)
	}
	h.t.Logf("%d numbers in %d cycles; the clock was off by up to %v, and as seen from here by at least %v", before.Seq, cycles, worst, worstSeen)
	if left := h.strays(h.instances()); left != nil {
		h.t.Error(left)
	}
}

// clockError is what the guest's clock is off at least: what lies outside of the
// time that its answer took cannot be the way's doing.
func (h *host) clockError(web string) time.Duration {
	h.t.Helper()
	sent := time.Now().UnixNano()
	guest, err := strconv.ParseInt(h.page(web, "/time"), 10, 64)
	got := time.Now().UnixNano()
	must(h.t, err)
	switch {
	case guest < sent:
		return time.Duration(guest - sent)
	case guest > got:
		return time.Duration(guest - got)
	}
	return 0
}

// testConcurrent: many requests at once to a sleeping instance wake it once.
func (h *host) testConcurrent(web string) {
	const requests = 20
	id := h.only("workers").ID
	h.do(id, mvm.OpSleep)
	woken := h.events(id, mvm.InstanceWoken)
	errs := make(chan error, requests)
	ctx := h.ctx()
	var wg sync.WaitGroup
	for n := range requests {
		wg.Go(func() {
			want := fmt.Sprintf("answer-%d", n)
			code, got, err := fetch(ctx, web, "/echo?say="+want)
			if err == nil && (code != http.StatusOK || got != want) {
				err = fmt.Errorf("got %d %q, want %q", code, got, want)
			}
			errs <- err
		})
	}
	wg.Wait()
	for range requests {
		if err := <-errs; err != nil {
			h.t.Error(err)
		}
	}
	if n := h.events(id, mvm.InstanceWoken) - woken; n != 1 {
		h.t.Errorf("%d wakes for %d requests, want 1", n, requests)
	}
	if i := h.get(id); i.Last.Kind != "warm" || !strings.HasPrefix(i.Last.By.String(), "gateway:") {
		h.t.Errorf("the wake was %s by %s, want warm by a gateway", i.Last.Kind, i.Last.By)
	}
}

// testSecrets: a secret that is changed while an instance sleeps is the one that its
// workload, the same process, sees first. Neither is in the clear on the host, nor is what
// the guest itself has in its memory.
func (h *host) testSecrets(web string) {
	worker := h.only("workers")
	first, second := rand.Text(), rand.Text()
	set := func(v string) {
		_, err := h.client.SetSecrets(h.ctx(), "acme", map[string][]byte{"api_key": []byte(v)})
		must(h.t, err)
	}
	set(first)
	testenv.Eventually(h.t, patience, func() error {
		if got := h.page(web, "/secret?name=api_key"); got != first {
			return fmt.Errorf("the running guest has %q, want %q", got, first)
		}
		return nil
	})
	mode, err := h.exec(worker.ID, "stat", "-c", "%a %U", "/run/secrets/api_key")
	if err != nil || mode != "400 root" {
		h.t.Errorf("the secret's file has %q, %v, want 400 root", mode, err)
	}
	mark, err := h.exec(worker.ID, "sh", "-c", "head -c 16 /dev/urandom | md5sum >/tmp/mark; cat /tmp/mark")
	must(h.t, err)
	before := h.check(web)
	h.wantInMemory(worker.ID, first)
	h.wantInMemory(worker.ID, mark)
	h.do(worker.ID, mvm.OpSleep)
	set(second)
	h.wantNowhere(first, second, mark)
	if got := h.page(web, "/secret?name=api_key"); got != second {
		h.t.Errorf("the first answer after the wake has %q, want %q", got, second)
	}
	if i := h.get(worker.ID); i.Last.Kind != "warm" || i.SecretsGeneration != 2 {
		h.t.Errorf("the wake was %s with generation %d, want warm with 2", i.Last.Kind, i.SecretsGeneration)
	}
	if after := h.check(web); after.PID != before.PID || after.Start != before.Start || after.BootID != before.BootID {
		h.t.Errorf("the workload was started again: %+v, before %+v", after, before)
	}
	if got, err := h.exec(worker.ID, "cat", "/tmp/mark"); err != nil || got != mark {
		h.t.Errorf("the guest's mark is %q, %v; want %q", got, err, mark)
	}
	h.do(worker.ID, mvm.OpSleep)
	h.wantNowhere(first, second, mark)
	h.do(worker.ID, mvm.OpWake)
}

// testByKey: each key has an instance of its own, as far as the quota goes.
func (h *host) testByKey(people string) {
	first := h.page(people, "/hello", "X-User", "ann")
	second := h.page(people, "/hello", "X-User", "bob")
	if first == second {
		h.t.Errorf("ann and bob both have %q", first)
	}
	if again := h.page(people, "/hello", "X-User", "ann"); again != first {
		h.t.Errorf("ann has %q, and had %q", again, first)
	}
	for key, name := range map[string]string{"ann": first, "bob": second} {
		i, err := h.client.Instance(h.ctx(), mvm.Address{Tenant: "acme", Pool: "people", Key: key})
		if err != nil || i.ID != strings.TrimSpace(name) {
			h.t.Errorf("acme/people@%s is %s, %v, want %s", key, i.ID, err, name)
		}
	}
	code, body, err := fetch(h.ctx(), people, "/hello", "X-User", "eve")
	if err != nil || code != http.StatusServiceUnavailable && code != http.StatusTooManyRequests {
		h.t.Errorf("past the quota: %d %q %v, want 503 or 429", code, body, err)
	}
	if code, _, err := fetch(h.ctx(), people, "/hello"); err != nil || code != http.StatusBadRequest {
		h.t.Errorf("without a key: %d %v, want 400", code, err)
	}
	for _, i := range h.instances() {
		if i.Pool == "people" {
			h.do(i.ID, mvm.OpDestroy)
		}
	}
}

// testVerify has the agent look at its networks, with probes from the guests.
func (h *host) testVerify() {
	all, err := h.client.NetVerify(h.ctx(), true, nil)
	must(h.t, err)
	for _, f := range all {
		if f.Severity == "error" {
			h.t.Errorf("%s: %s", f.Where, f.What)
		}
	}
}
