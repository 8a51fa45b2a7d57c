package vm_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
	"mvm/test/discordapi"
)

const inboxTenant = `
[tenant]
id = "acme"
host_services = [%[1]d]
subnet = "10.240.11.0/24"
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
[[pools.channels]]
name = "discord"
kind = "discord"
secret = "discord_token"
allow = ["%[2]s"]
api_root = "http://10.240.11.1:%[1]d/api/v10"
target = { pool_id = "workers", instance_selector = { by_key = { from = "fixed:7" } }, target_port = 8000, path = "/discord" }
[secrets]
signing = { file = "signing" }
discord_token = { file = "discord" }
`

// Of the Discord that the test plays, on the tenant's address on the host.
const (
	discordPort  = 18444
	discordUser  = "100000000000000001"
	discordChat  = "200000000000000001"
	discordToken = "bot-token.REALTOKEN_dddddddddddddddddd"
)

// TestInbox: a message that was answered with 200 reaches the worker, which is made and
// woken for it, though the gateway is killed while the message waits; one that the worker
// does not take is set aside, and can be seen, tried again and dropped. The gateway has the
// connection to Discord, too: what is written there wakes the worker, also if the gateway was
// not there when it was written.
func TestInbox(t *testing.T) {
	t.Parallel()
	h := newHost(t, "qemu")
	d, err := manifest.ParseDeployment("test.toml", []byte(fmt.Sprintf(inboxTenant, discordPort, discordUser)+workerPool("workers", 0)), func(name string) ([]byte, error) {
		if name == "discord" {
			return []byte(discordToken + "\n"), nil
		}
		return []byte("hush\n"), nil
	})
	must(t, err)
	if _, err := h.client.Apply(h.ctx(), d, mvm.ApplyOptions{}, nil); err != nil {
		t.Fatalf("deploy: %v\n%s", err, h.log())
	}
	api := h.discord()
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

	h.do(w.ID, mvm.OpSleep)
	api.Write(discordChat, discordUser, "from Discord")
	h.replied(api, "heard: from Discord")
	if i := h.get(w.ID); i.Last.By != mvm.ParseAsker("channel:discord") || i.Last.Kind != "warm" {
		t.Errorf("the worker's last transition is %+v, want it woken by channel:discord from its snapshot", i.Last)
	}
	if api.Typing(discordChat) == 0 {
		t.Error("no sign of typing in Discord")
	}

	_, err = h.exec(w.ID, "sh", "-c", "echo 503 > /data/answer")
	must(t, err)
	h.post("kept", "bob", "hush", 200)
	h.post("behind it", "bob", "hush", 200)
	gw := h.only("gateways")
	s, err := h.client.Stats(h.ctx(), mvm.Address{Instance: gw.ID})
	must(t, err)
	must(t, syscall.Kill(s.PID, syscall.SIGKILL))
	api.Write(discordChat, discordUser, "while you were away")
	h.kept("kept", "behind it")
	_, err = h.exec(w.ID, "rm", "/data/answer")
	must(t, err)
	h.taken("first", "wake up", "kept", "behind it")
	h.replied(api, "heard: from Discord", "heard: while you were away")
	h.kept()
	if found := holding(t, h.path("d/instances/"+w.ID), []string{"REALTOKEN"}); len(found) > 0 {
		t.Errorf("the token of Discord is in the worker's files: %v", found)
	}

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

// discord serves Discord to the tenant.
func (h *host) discord() *discordapi.Server {
	h.t.Helper()
	api := discordapi.New(discordapi.Options{Token: discordToken})
	api.AddChannel(discordChat, "")
	l, err := net.Listen("tcp", fmt.Sprintf("10.240.11.1:%d", discordPort))
	must(h.t, err)
	srv := &http.Server{Handler: api, ReadHeaderTimeout: patience}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	h.t.Cleanup(func() {
		must(h.t, srv.Close())
		api.Close()
		<-served
	})
	return api
}

// replied waits until Discord has these replies, in order, each once.
func (h *host) replied(api *discordapi.Server, want ...string) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		var got []string
		for _, m := range api.Sent(discordChat) {
			if m.ReplyTo == "" {
				return fmt.Errorf("%q is no reply", m.Text)
			}
			got = append(got, m.Text)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("Discord has %q, want %q; the gateway says %+v", got, want, h.only("gateways").Health)
		}
		return nil
	})
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
