package vm_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
)

const inboxTenant = `
[tenant]
id = "acme"
[[pools]]
id = "gateways"
role = "gateway"
flake = "builtin:gateway"
vcpus = 1
mem_mib = 256
data_disk_mib = 64
desired_running = 1
publish = ["127.0.0.1:0:8443"]
[[pools.channels]]
name = "hook"
kind = "webhook"
auth = "hub"
secret = "signing"
allow = ["bob"]
port = 8443
id_from = "header:x-id"
chat_from = "json:/chat"
sender_from = "json:/from"
target = { pool_id = "workers", instance_selector = { by_key = { from = "chat" } }, target_port = 8000, path = "/in" }
[secrets]
signing = { file = "signing" }
`

// TestInbox: a message that was answered with 200 reaches the worker, which is made and
// woken for it, though the gateway is killed while the message waits; one that the worker
// does not take is set aside, and can be seen, tried again and dropped.
func TestInbox(t *testing.T) {
	t.Parallel()
	h := newHost(t, "qemu")
	d, err := manifest.ParseDeployment("test.toml", []byte(inboxTenant+workerPool("workers", 0)), func(string) ([]byte, error) { return []byte("hush\n"), nil })
	must(t, err)
	if _, err := h.client.Apply(h.ctx(), d, mvm.ApplyOptions{}, nil); err != nil {
		t.Fatalf("deploy: %v\n%s", err, h.log())
	}
	h.post("first", "bob", "hush", 200)
	h.taken("first")
	w := h.only("workers")
	if w.Key != "7" {
		t.Errorf("the worker has key %q", w.Key)
	}
	h.post("stranger", "eve", "hush", 200)
	h.post("forged", "bob", "guess", 401)

	h.do(w.ID, mvm.OpSleep)
	h.post("wake up", "bob", "hush", 200)
	h.taken("first", "wake up")
	if i := h.get(w.ID); i.Last.By != mvm.ParseAsker("channel:hook") || i.Last.Kind != "warm" {
		t.Errorf("the worker's last transition is %+v, want it woken by channel:hook from its snapshot", i.Last)
	}

	_, err = h.exec(w.ID, "sh", "-c", "echo 503 > /data/answer")
	must(t, err)
	h.post("kept", "bob", "hush", 200)
	h.post("behind it", "bob", "hush", 200)
	gw := h.only("gateways")
	s, err := h.client.Stats(h.ctx(), mvm.Address{Instance: gw.ID})
	must(t, err)
	must(t, syscall.Kill(s.PID, syscall.SIGKILL))
	h.kept("kept", "behind it")
	_, err = h.exec(w.ID, "rm", "/data/answer")
	must(t, err)
	h.taken("first", "wake up", "kept", "behind it")
	h.kept()

	_, err = h.exec(w.ID, "sh", "-c", "echo 400 > /data/answer")
	must(t, err)
	h.post("poison", "bob", "hush", 200)
	var m mvm.Message
	testenv.Eventually(t, patience, func() error {
		m = h.kept("poison")[0]
		if !m.SetAside {
			return fmt.Errorf("not set aside: %+v", m)
		}
		return nil
	})
	shown, err := h.client.Message(h.ctx(), "acme", "gateways", m.Number)
	if err != nil || !strings.Contains(string(shown.Body), `"text":"poison"`) || shown.Sender != "bob" || !strings.Contains(m.Why, "400") {
		t.Errorf("shown: %+v, %v", shown, err)
	}
	_, err = h.exec(w.ID, "rm", "/data/answer")
	must(t, err)
	must(t, h.client.RetryMessage(h.ctx(), "acme", "gateways", m.Number))
	h.taken("first", "wake up", "kept", "behind it", "poison")
	if n := h.events(gw.ID, mvm.MessageRead); n != 1 {
		t.Errorf("that the message was read is recorded %d times", n)
	}
	if all := h.instances(); len(all) != 2 {
		t.Errorf("%d instances, want the gateway and one worker", len(all))
	}
}

// post posts as the platform would, until it gets the answer.
func (h *host) post(text, from, secret string, want int) {
	h.t.Helper()
	body := fmt.Sprintf(`{"chat":7,"from":%q,"text":%q}`, from, text)
	sum := hmac.New(sha256.New, []byte(secret))
	sum.Write([]byte(body))
	testenv.Eventually(h.t, patience, func() error {
		req, err := http.NewRequestWithContext(h.ctx(), "POST", "http://"+h.bound(0)+"/hook", strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum.Sum(nil)))
		req.Header.Set("X-Id", text)
		tr := &http.Transport{DisableKeepAlives: true}
		defer tr.CloseIdleConnections()
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != want {
			err = fmt.Errorf("%s: %d %s", text, resp.StatusCode, b)
		}
		return err
	})
}

// taken waits until the worker has taken these messages, in order, each once.
func (h *host) taken(want ...string) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		for _, i := range h.instances() {
			if i.Pool != "workers" || i.State != mvm.StateRunning {
				continue
			}
			out, err := h.exec(i.ID, "cat", "/data/once")
			if got := strings.Split(strings.TrimSpace(out), "\n"); err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("the worker has %q, want %q", got, want)
			}
			return err
		}
		return errors.New("no worker runs")
	})
}

// kept waits until the inbox has these messages.
func (h *host) kept(want ...string) (all []mvm.Message) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() (err error) {
		if all, err = h.client.Messages(h.ctx(), "acme"); err != nil {
			return err
		}
		var got []string
		for _, m := range all {
			got = append(got, m.ID)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("the inbox has %q, want %q", got, want)
		}
		return nil
	})
	return all
}
