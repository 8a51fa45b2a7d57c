package vm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/testenv"
	"mvm/test/botapi"
	"mvm/test/stubmodel"
)

// openClaw is the demo's assistant, with a model that the test plays.
type openClaw struct {
	*host
	id    string
	url   string
	token string
	model *model

	bot      *botapi.Server
	botToken string
}

// model is the stub model of the demo, which the test can see and hold.
type model struct {
	mu   sync.Mutex
	keys []string      // that it was asked with
	held chan struct{} // answers to "wait" come when it is closed
	got  chan struct{} // a "wait" has arrived
	last time.Time     // when it was asked first; see asked
}

// The demo's ports, at which the tenant's guests may reach this host.
const (
	stubPort = "18088"
	botPort  = "18089"
)

// openClaw takes the demo's assistant over.
func (h *host) openClaw() *openClaw {
	h.t.Helper()
	token, err := os.ReadFile(h.path("demo/secrets/gateway_token"))
	must(h.t, err)
	ten, _, err := h.client.Tenant(h.ctx(), "alice")
	must(h.t, err)
	gw, err := h.client.Pool(h.ctx(), "alice", "gateways")
	must(h.t, err)
	i, err := h.client.Instance(h.ctx(), mvm.Address{Tenant: "alice", Pool: "workers", Key: "alice"})
	must(h.t, err)
	o := &openClaw{host: h, id: i.ID, token: strings.TrimSpace(string(token)), model: &model{},
		url: "http://" + gw.Bound[0].String() + "/v1/chat/completions"}
	o.serve(ten.Subnet, stubPort, o.model.handler())
	o.serveBot(ten.Subnet)
	h.setPolicy(func(p *mvm.RuntimePolicy) { p.DrainTimeoutSeconds = 3 })
	return o
}

// serve serves the tenant's guests on this host.
func (o *openClaw) serve(subnet netip.Prefix, port string, handler http.Handler) {
	o.t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(subnet.Addr().Next().String(), port))
	must(o.t, err)
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: patience}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	o.t.Cleanup(func() {
		must(o.t, srv.Close())
		<-served
	})
}

func (m *model) handler() http.Handler {
	stub := &stubmodel.Server{Command: toolCommand, Reminders: true, Reply: func(last string) string {
		if strings.Contains(last, "wait") {
			m.mu.Lock()
			got, held := m.got, m.held
			m.mu.Unlock()
			close(got)
			<-held
		}
		return "heard: " + last
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		if m.last.IsZero() {
			m.last = time.Now()
		}
		m.keys = append(m.keys, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		m.mu.Unlock()
		stub.ServeHTTP(w, r)
	})
}

// endOfCommand ends the command that the assistant runs for a message with "build".
const endOfCommand = "/data/home/done"

func toolCommand(last string) string {
	if !strings.Contains(last, "build") {
		return ""
	}
	return "while ! test -e " + endOfCommand + "; do sleep 0.2; done"
}

// lastKey is the key that the model was asked with last.
func (m *model) lastKey() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.keys) == 0 {
		return ""
	}
	return m.keys[len(m.keys)-1]
}

// asked is when the model was asked first since this was called last; zero: not yet.
func (m *model) asked() (at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, m.last = m.last, time.Time{}
	return at
}

// hold has the model keep the answers to "wait" back until release is called. got is
// closed when it was asked.
func (m *model) hold() (got <-chan struct{}, release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := make(chan struct{})
	m.held, m.got = held, make(chan struct{})
	return m.got, sync.OnceFunc(func() { close(held) })
}

func (o *openClaw) on(t testing.TB) *openClaw {
	c := *o
	c.host = o.host.on(t)
	return &c
}

// setPolicy changes the policy of the workers.
func (h *host) setPolicy(change func(*mvm.RuntimePolicy)) {
	h.t.Helper()
	p, err := h.client.Pool(h.ctx(), "alice", "workers")
	must(h.t, err)
	spec := p.Spec
	change(&spec.Policy)
	_, err = h.client.UpdatePool(h.ctx(), "alice", "workers", mvm.PoolUpdate{Spec: &spec})
	must(h.t, err)
}

// chat sends a message and returns the answer and how long it took.
func (o *openClaw) chat(text string) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body := fmt.Sprintf(`{"model":"openclaw","messages":[{"role":"user","content":%q}]}`, text)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader([]byte(body)))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Authorization", "Bearer "+o.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Mvm-User", "alice")
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	began := time.Now()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	if err != nil {
		return "", 0, err
	}
	var c struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.Unmarshal(b, &c); err != nil || len(c.Choices) == 0 {
		return "", 0, fmt.Errorf("unexpected answer %q", b)
	}
	return c.Choices[0].Message.Content, time.Since(began), nil
}

// say is a chat that must be answered.
func (o *openClaw) say(text string) time.Duration {
	o.t.Helper()
	answer, took, err := o.chat(text)
	if err != nil || !strings.Contains(answer, text) {
		o.t.Fatalf("chat: %q, %v\n%s\nOpenClaw:\n%s", answer, err, o.log(), o.said())
	}
	return took
}

// said is what OpenClaw printed last.
func (o *openClaw) said() string {
	var b strings.Builder
	err := o.client.Logs(o.ctx(), mvm.Address{Instance: o.id}, mvm.LogsSpec{Service: "openclaw", Tail: 40}, func(l mvm.LogLine) error {
		b.WriteString(l.Text + "\n")
		return nil
	})
	if err != nil {
		b.WriteString(err.Error())
	}
	return b.String()
}

// process is OpenClaw's process in the guest: pid and start time.
func (o *openClaw) process() string {
	o.t.Helper()
	out, err := o.exec(o.id, "/bin/bash", "-c", `for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline 2>/dev/null)" in *launch.mjs*|*openclaw*gateway*) `+
		`set -- $(cat $p/stat); echo "$1 ${22}"; exit;; esac; done; exit 1`)
	must(o.t, err)
	return out
}

// stages tells where the time of the last transition went.
func (h *host) stages(id string) string {
	h.t.Helper()
	l := h.get(id).Last
	out := fmt.Sprintf("%s %s %s:", l.Op, l.Kind, l.Took.Round(time.Millisecond))
	for _, s := range l.Stages {
		out += fmt.Sprintf(" %s %s", s.Name, s.Took.Round(time.Millisecond))
	}
	return out
}

// testBusy: a turn that runs keeps the instance awake and is answered; once it is over
// the instance sleeps, and the next message wakes it.
func (o *openClaw) testBusy() {
	o.say("warm up")
	before := o.process()
	got, release := o.model.hold()
	defer release()
	answered := make(chan error, 1)
	go func() {
		_, _, err := o.chat("wait for it")
		answered <- err
	}()
	select {
	case <-got:
	case err := <-answered:
		o.t.Fatalf("the turn ended before it was to: %v", err)
	}
	o.staysAwake("run")
	if i := o.get(o.id); i.State != mvm.StateRunning || i.Held {
		o.t.Errorf("it is %s, held %v", i.State, i.Held)
	}
	release()
	if err := <-answered; err != nil {
		o.t.Errorf("the turn: %v", err)
	}
	testenv.Eventually(o.t, patience, func() error { // what follows a turn takes a moment
		_, err := o.try(o.id, mvm.OpSleep)
		return err
	})
	o.t.Logf("%s", o.stages(o.id))
	took := o.say("good morning")
	o.t.Logf("answered after %s; %s", took.Round(time.Millisecond), o.stages(o.id))
	if i := o.get(o.id); i.Last.Kind != "warm" || i.Held || i.Untold != "" {
		o.t.Errorf("the wake was %s, held %v, untold %q", i.Last.Kind, i.Held, i.Untold)
	}
	if now := o.process(); now != before {
		o.t.Errorf("OpenClaw is process %s, was %s", now, before)
	}
}

// staysAwake has a sleep refused for OpenClaw's reason, which is in the error. A guest that
// gets no CPU for a while is kept awake for that first.
func (o *openClaw) staysAwake(reason string) {
	o.t.Helper()
	testenv.Eventually(o.t, patience, func() error {
		_, err := o.try(o.id, mvm.OpSleep)
		if !mvm.IsKind(err, mvm.KindPolicy) {
			o.t.Fatalf("sleep of a busy instance: %v, want it refused by policy", err)
		}
		if !strings.Contains(err.Error(), "openclaw: busy") || !strings.Contains(err.Error(), reason) {
			return fmt.Errorf("sleep of a busy instance: %w, want OpenClaw's reason: %s", err, reason)
		}
		o.t.Logf("refused: %v", err)
		return nil
	})
}

// testCommand: a command that a tool runs in the background keeps the instance awake
// when the turn that began it is long answered.
func (o *openClaw) testCommand() {
	o.say("build it")
	o.staysAwake("background exec")
	_, err := o.try(o.id, mvm.OpWarm)
	if !mvm.IsKind(err, mvm.KindPolicy) {
		o.t.Errorf("pause while a command runs: %v, want refused by policy", err)
	}
	must(o.t, o.write(o.id, endOfCommand, ""))
	testenv.Eventually(o.t, patience, func() error {
		_, err := o.try(o.id, mvm.OpWarm)
		return err
	})
	took := o.say("is it built")
	o.t.Logf("from memory answered after %s; %s", took.Round(time.Millisecond), o.stages(o.id))
}

// rotate gives the model's key a new value.
func (o *openClaw) rotate() string {
	o.t.Helper()
	key := "sk-" + strings.ToLower(rand.Text())
	_, err := o.client.SetSecrets(o.ctx(), "alice", map[string][]byte{"model_key": []byte(key)})
	must(o.t, err)
	return key
}

// testRotation: OpenClaw uses a rotated key at once, and after a wake with its first
// message, without a restart. Neither is in the clear on the host but in snapshots.
func (o *openClaw) testRotation() {
	before := o.process()
	first := o.rotate()
	testenv.Eventually(o.t, patience, func() error {
		o.say("awake")
		if got := o.model.lastKey(); got != first {
			return fmt.Errorf("the model was asked with %q", got)
		}
		return nil
	})
	if i := o.get(o.id); i.Untold != "" {
		o.t.Errorf("not told: %s", i.Untold)
	}
	o.wantInMemory(o.id, first)
	testenv.Eventually(o.t, patience, func() error {
		_, err := o.try(o.id, mvm.OpSleep)
		return err
	})
	second := o.rotate()
	o.wantNowhere(first, second)
	took := o.say("after the rotation")
	o.t.Logf("answered after %s; %s", took.Round(time.Millisecond), o.stages(o.id))
	if got := o.model.lastKey(); got != second {
		o.t.Errorf("the first message after the wake used %q, want the second key", got)
	}
	i := o.get(o.id)
	if i.Last.Kind != "warm" || i.Untold != "" {
		o.t.Errorf("the wake was %s, untold %q", i.Last.Kind, i.Untold)
	}
	if now := o.process(); now != before {
		o.t.Errorf("OpenClaw is process %s, was %s", now, before)
	}
	o.wantNowhere(first, second)
}
