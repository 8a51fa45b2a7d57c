package vm_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mvm"
	"mvm/internal/testenv"
)

// The times of the pool that is left alone, and how long it is watched for what must
// not happen.
const (
	warmAfter  = 4 * time.Second
	sleepAfter = 9 * time.Second
	watched    = 14 * time.Second
)

// idlePool is a pool whose workload does nothing that it is not asked for.
var idlePool = fmt.Sprintf(`
[[pools]]
id = "workers"
flake = %q
vcpus = 1
mem_mib = 256
data_disk_mib = 64
desired_running = 1
env = { MVM_COMMAND = "exec /bin/workload quiet", MVM_READY_TCP = "8000" }
min_running_seconds = 0
min_warm_seconds = 0
warm_after_seconds = %d
sleep_after_seconds = %d
drain_timeout_seconds = 3
`, imageRef(imgWorkload), int(warmAfter.Seconds()), int(sleepAfter.Seconds()))

// TestLeftAlone: an instance that nobody uses goes warm and then to sleep by itself, and
// not while something keeps it busy, which it names. The next request wakes it.
func TestLeftAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t, "qemu")
	h.deploy(gatewayPool + idlePool + workerPool("people", 0))
	web, id := h.web(), h.only("workers").ID
	h.restsByItself(id)
	if n := h.events(id, mvm.InstanceWarmed); n != 1 {
		t.Errorf("it went warm %d times on its way, want once", n)
	}
	if gw := h.only("gateways"); gw.State != mvm.StateRunning {
		t.Errorf("the gateway is %s", gw.State)
	}
	t.Run("a connection", func(t *testing.T) { h.on(t).testIdleConnection(web, id) })
	t.Run("a request", func(t *testing.T) { h.on(t).testIdleRequest(web, id) })
	t.Run("the busy flag", func(t *testing.T) { h.on(t).testIdleFlag(web, id) })
	t.Run("a command", func(t *testing.T) { h.on(t).testIdleExec(web, id) })
	t.Run("bytes", func(t *testing.T) { h.on(t).testIdleBytes(web, id) })
	t.Run("cpu", func(t *testing.T) { h.on(t).testIdleCPU(web, id) })
}

// restsByItself waits until the policy has put the instance to sleep.
func (h *host) restsByItself(id string) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		if i := h.get(id); i.State != mvm.StateSleeping || i.Op != nil {
			return fmt.Errorf("it is %s, idle %+v", i.State, i.Idle)
		}
		return nil
	})
	i := h.get(id)
	if i.Last.By.Kind != mvm.AskerPolicy || !i.Parked || !strings.Contains(i.Last.Reason, "idle for") {
		h.t.Errorf("it sleeps, parked %v, by %s (%s), want by the policy", i.Parked, i.Last.By, i.Last.Reason)
	}
}

// staysAwake watches the instance for longer than it would take to fall asleep: it runs
// all the time, and soon says why.
func (h *host) staysAwake(id, because string) {
	h.t.Helper()
	said := ""
	for began := time.Now(); time.Since(began) < watched; time.Sleep(200 * time.Millisecond) {
		i := h.get(id)
		if i.State != mvm.StateRunning {
			h.t.Fatalf("after %s it is %s (%+v)\n%s", time.Since(began), i.State, i.Last, h.log())
		}
		if i.Idle != nil {
			said = i.Idle.Awake
		}
	}
	if !strings.Contains(said, because) {
		h.t.Errorf("it is awake because %q, want %q", said, because)
	}
}

// wakes sends a request, which must wake the instance.
func (h *host) wakes(web, path, id string) {
	h.t.Helper()
	woken := h.events(id, mvm.InstanceWoken)
	h.page(web, path)
	if n := h.events(id, mvm.InstanceWoken) - woken; n != 1 {
		h.t.Errorf("the request woke it %d times, want once", n)
	}
}

func (h *host) testIdleConnection(web, id string) {
	woken := h.events(id, mvm.InstanceWoken)
	c, resp, err := websocket.Dial(h.ctx(), "ws://"+web+"/ws", nil)
	must(h.t, err)
	if resp.Body != nil {
		defer resp.Body.Close()
	}
	defer func() { _ = c.CloseNow() }()
	if n := h.events(id, mvm.InstanceWoken) - woken; n != 1 {
		h.t.Errorf("the connection woke it %d times, want once", n)
	}
	h.staysAwake(id, "1 connection is open through gateway "+h.only("gateways").ID) // though it is quiet
	must(h.t, c.Close(websocket.StatusNormalClosure, ""))
	h.restsByItself(id)
}

func (h *host) testIdleRequest(web, id string) {
	req, err := http.NewRequestWithContext(h.ctx(), "GET", "http://"+web+"/stream", nil)
	must(h.t, err)
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	must(h.t, err)
	defer resp.Body.Close()
	h.staysAwake(id, "1 connection is open through gateway")
	h.page(web, "/release")
	h.restsByItself(id)
}

func (h *host) testIdleFlag(web, id string) {
	h.wakes(web, "/hello", id)
	_, err := h.exec(id, "touch", "/run/mvm/worker-busy")
	must(h.t, err)
	h.staysAwake(id, "worker-busy is set")
	_, err = h.exec(id, "rm", "/run/mvm/worker-busy")
	must(h.t, err)
	h.restsByItself(id)
}

func (h *host) testIdleExec(web, id string) {
	h.wakes(web, "/hello", id)
	done := make(chan error, 1)
	go func() {
		_, err := h.exec(id, "sleep", fmt.Sprint(watched.Seconds()+3))
		done <- err
	}()
	h.staysAwake(id, "1 command runs for `mvm exec`")
	must(h.t, <-done)
	h.restsByItself(id)
}

func (h *host) testIdleBytes(web, id string) {
	h.wakes(web, fmt.Sprintf("/noise?to=%s:9&for=%s", h.only("gateways").IP, watched+3*time.Second), id)
	h.staysAwake(id, "bytes a minute over the last")
	s, err := h.client.Stats(h.ctx(), mvm.Address{Instance: id})
	must(h.t, err)
	if s.TxBytes < 50<<10 {
		h.t.Errorf("it sent %d bytes, want what the workload sent", s.TxBytes)
	}
	h.restsByItself(id)
	for _, sig := range h.get(h.only("gateways").ID).Idle.Signals {
		h.t.Logf("the gateway that does nothing: %s: %s", sig.Name, sig.Text)
	}
}

func (h *host) testIdleCPU(web, id string) {
	h.wakes(web, fmt.Sprintf("/spin?for=%s", watched+3*time.Second), id)
	h.staysAwake(id, "cpu ")
	h.restsByItself(id)
}
