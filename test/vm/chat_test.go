package vm_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
	"mvm/test/botapi"
)

// apiPort is where the test's Bot API is, on the tenant's address on the host.
const apiPort = 18443

const (
	realToken  = "111111:REALTOKEN_aaaaaaaaaaaaaaaaaaaaaaaaaaa"
	nextToken  = "111111:ROTATED00_bbbbbbbbbbbbbbbbbbbbbbbbbbb"
	chatTenant = `
[tenant]
id = "chatty"
host_services = [%[1]d]
subnet = "10.240.9.0/24"
[[pools]]
id = "gateways"
role = "gateway"
flake = "builtin:gateway"
vcpus = 1
mem_mib = 256
desired_running = 1
[[pools.channels]]
name = "bot"
kind = "telegram"
secret = "telegram_token"
allow = ["7"]
api_root = "http://10.240.9.1:%[1]d"
target = { pool_id = "workers", instance_selector = { by_key = { from = "chat" } }, target_port = 8787, path = "/telegram-webhook", accept = "durable" }
[secrets]
telegram_token = { file = "token" }
`
)

// talk is a host whose tenant has a bot.
type talk struct {
	*host
	api *botapi.Server
}

// newTalk deploys the tenant with a pool of workers, and serves its Bot API.
func newTalk(t testing.TB, workers string) *talk {
	h := &talk{host: newHost(t, "qemu"), api: botapi.New(realToken, nil)}
	d, err := manifest.ParseDeployment("test.toml", []byte(fmt.Sprintf(chatTenant, apiPort)+workers),
		func(string) ([]byte, error) { return []byte(realToken + "\n"), nil })
	must(t, err)
	if _, err := h.client.Apply(h.ctx(), d, mvm.ApplyOptions{}, nil); err != nil {
		t.Fatalf("deploy: %v\n%s", err, h.log())
	}
	h.instances()
	l, err := net.Listen("tcp", fmt.Sprintf("10.240.9.1:%d", apiPort))
	must(t, err)
	srv := &http.Server{Handler: h.api, ReadHeaderTimeout: patience}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		h.api.Close()
		must(t, srv.Close())
		<-served
	})
	return h
}

func chatWorkers() string {
	return strings.Replace(workerPool("workers", 0), `"exec /bin/workload", MVM_READY_TCP = "8000"`, `"exec /bin/workload chat", MVM_READY_TCP = "8787"`, 1)
}

// answered waits until the messages were answered in the chat, and reports how often each was.
func (h *talk) answered(texts ...string) (times []int) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		times = make([]int, len(texts))
		for _, s := range h.api.Sent() {
			if n := slices.Index(texts, strings.TrimPrefix(s.Text, "heard: ")); n >= 0 && s.Chat == 7 {
				times[n]++
			}
		}
		if slices.Contains(times, 0) {
			return fmt.Errorf("answered %v times; %d updates wait", times, len(h.api.Pending()))
		}
		return nil
	})
	return times
}

func (h *talk) confirmed() {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		if n := len(h.api.Pending()); n > 0 {
			return fmt.Errorf("%d updates are not confirmed", n)
		}
		return nil
	})
}

// TestChat: a message to a bot makes a worker, wakes it, and is answered by it through the
// gateway, whatever dies meanwhile.
func TestChat(t *testing.T) {
	t.Parallel()
	h := newTalk(t, chatWorkers())
	h.api.Write(7, 7, "hello")
	h.answered("hello")
	h.confirmed()
	w := h.only("workers")
	if w.Key != "7" {
		t.Errorf("the worker has key %q", w.Key)
	}
	t.Run("wakes", func(t *testing.T) { h.on(t).testChatWakes(w.ID) })
	t.Run("strangers", func(t *testing.T) { h.on(t).testStrangers(w.ID) })
	t.Run("one turn at a time", func(t *testing.T) { h.on(t).testTurns(w.ID) })
	t.Run("the token", func(t *testing.T) { h.on(t).testToken(w.ID) })
	h.testChatKills(w.ID) // on the whole host, whose agent it starts anew
}

func (h *talk) on(t testing.TB) *talk {
	c := *h
	c.host = h.host.on(t)
	return &c
}

// testChatWakes: a message wakes a sleeper, in the channel's name, and typing is shown before.
func (h *talk) testChatWakes(id string) {
	h.do(id, mvm.OpSleep)
	began, calls := time.Now(), len(h.api.Calls("sendChatAction"))
	h.api.Write(7, 7, "wake up")
	testenv.Eventually(h.t, patience, func() error {
		if len(h.api.Calls("sendChatAction")) == calls {
			return errors.New("no sign of typing")
		}
		return nil
	})
	typing := time.Since(began)
	h.answered("wake up")
	h.t.Logf("typing after %s, the answer after %s", typing.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	i := h.get(id)
	if i.State != mvm.StateRunning || i.Last.By != mvm.ParseAsker("channel:bot") || i.Last.Kind != "warm" {
		h.t.Errorf("the worker is %s: %+v, want it woken by channel:bot from its snapshot", i.State, i.Last)
	}
	if g := h.only("gateways"); g.Health == nil || len(g.Health.Channels) != 1 || g.Health.Channels[0].Status != mvm.HealthReady || g.Health.Channels[0].Bot != "@standin_bot" {
		h.t.Errorf("the gateway's health is %+v", g.Health)
	}
}

// testStrangers: who is not allowed wakes nobody and makes no worker.
func (h *talk) testStrangers(id string) {
	h.do(id, mvm.OpSleep)
	for _, from := range []int64{8, 9} {
		h.api.Write(from, from, "let me in")
		h.api.Write(-100, from, "let me in")
	}
	h.confirmed()
	testenv.Eventually(h.t, patience, func() error {
		refused := 0
		must(h.t, h.client.Events(h.ctx(), mvm.EventFilter{Tenant: "chatty"}, func(e mvm.Event) error {
			if e.Action == mvm.MessageRefused {
				refused++
			}
			return nil
		}))
		if refused != 4 {
			return fmt.Errorf("%d refused messages are recorded", refused)
		}
		return nil
	})
	if i := h.only("workers"); i.State != mvm.StateSleeping {
		h.t.Errorf("the worker is %s", i.State)
	}
}

// testTurns: while a turn is under way the next message waits, and a command does not.
func (h *talk) testTurns(id string) {
	h.do(id, mvm.OpWake)
	must(h.t, h.write(id, "/data/hold", ""))
	h.api.Write(7, 7, "long")
	h.accepted(id, "long")
	h.api.Write(7, 7, "next")
	h.api.Write(7, 7, "/stop")
	h.accepted(id, "/stop")
	if out, err := h.exec(id, "cat", "/data/accepted"); err != nil || strings.Contains(out, `"next"`) {
		h.t.Errorf("the worker has %s, %v", out, err)
	}
	_, err := h.exec(id, "rm", "/data/hold")
	must(h.t, err)
	h.answered("long", "/stop", "next")
	h.confirmed()
}

// accepted waits until the worker has the message.
func (h *talk) accepted(id, text string) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		out, err := h.exec(id, "cat", "/data/accepted")
		if err == nil && !strings.Contains(out, `"`+text+`"`) {
			err = fmt.Errorf("the worker has %s", out)
		}
		return err
	})
}

// testToken: the real token is nowhere in a worker, awake or asleep, and is rotated without
// one noticing.
func (h *talk) testToken(id string) {
	boot, err := h.exec(id, "cat", "/proc/sys/kernel/random/boot_id")
	must(h.t, err)
	must(h.t, func() error {
		h.api.SetToken(nextToken)
		_, err := h.client.SetSecrets(h.ctx(), "chatty", map[string][]byte{"telegram_token": []byte(nextToken)})
		return err
	}())
	h.api.Write(7, 7, "with another token")
	h.answered("with another token")
	if now, err := h.exec(id, "cat", "/proc/sys/kernel/random/boot_id"); err != nil || now != boot {
		h.t.Errorf("the worker has booted anew: %v", err)
	}
	for _, c := range h.api.Calls("sendMessage") {
		if c.Token != realToken && c.Token != nextToken {
			h.t.Errorf("Telegram saw the token %q", c.Token)
		}
	}
	h.do(id, mvm.OpSleep)
	found := holding(h.t, filepath.Join(h.data, "instances", id), []string{"REALTOKEN", "ROTATED00"})
	if len(found) > 0 {
		h.t.Errorf("the real token is in the worker's files: %v", found)
	}
}

// testChatKills: the worker's VMM, with what its guest has not synced, the gateway's VMM and
// the agent are killed while messages are on their way; every one is answered.
func (h *talk) testChatKills(id string) {
	victims := map[string]func(){
		"worker":  func() { h.killVMM(id) },
		"gateway": func() { h.killVMM(h.only("gateways").ID) },
		"agent":   func() { must(h.t, h.agent.Process.Kill()); _ = h.awaitEnd(); h.start() },
	}
	var texts []string
	write := func() {
		texts = append(texts, fmt.Sprintf("message %d", len(texts)))
		h.api.Write(7, 7, texts[len(texts)-1])
	}
	for _, who := range []string{"worker", "gateway", "agent", "worker"} {
		write()
		pause := time.Duration(rand.IntN(800)) * time.Millisecond
		time.Sleep(pause)
		victims[who]()
		write()
		twice := 0
		for _, n := range h.answered(texts...) {
			twice += n - 1
		}
		h.confirmed()
		// The worker does not sync that it has answered, so that a kill may have it answer again.
		h.t.Logf("%s killed after %s; answered again so far: %d", who, pause, twice)
	}
}

// killVMM kills the instance's VMM, if it has one.
func (h *talk) killVMM(id string) {
	h.t.Helper()
	s, err := h.client.Stats(h.ctx(), mvm.Address{Instance: id})
	if err != nil || s.PID == 0 {
		h.t.Logf("%s has no VMM to kill: %v", id, err)
		return
	}
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		h.t.Fatal(err)
	}
}
