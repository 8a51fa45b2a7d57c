package discord_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/discord"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guestproto"
	"mvm/test/discordapi"
)

var (
	chaosSeed     = flag.Uint64("chaos.seed", 0, "seed of TestChaos; 0: a new one")
	chaosMessages = flag.Int("chaos.messages", 200, "messages of TestChaos")
)

// gatewayEnv makes the test binary a gateway with the folder that it names: the addresses of
// Discord and the worker are in the files "api" and "worker".
const gatewayEnv = "MVM_DISCORD_TEST_GATEWAY"

// outside are the workers of a gateway that is a process of its own.
type outside struct{ addr string }

func (o outside) Reach(context.Context, string, string, string) (chat.Lease, error) {
	return lease(o), nil
}
func (outside) Preflight(context.Context, string, string) (guestproto.PreflightAck, error) {
	return guestproto.PreflightAck{Safe: true}, nil
}
func (outside) State(context.Context, string, string) (mvm.State, int, error) {
	return mvm.StateRunning, 1, nil
}

func (o outside) Sync(ctx context.Context, _, _ string, _ int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+o.addr+"/sync", nil)
	if err != nil {
		return err
	}
	resp, err := client().Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	return err
}
func (outside) Record(string, guestproto.MessageEvent) {}

func serveUntilKilled(dir string) int {
	api, err := os.ReadFile(filepath.Join(dir, "api"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	worker, err := os.ReadFile(filepath.Join(dir, "worker"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c := channel("chat", alice)
	c.APIRoot = string(api)
	out, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w, log := outside{string(worker)}, slog.New(slog.NewTextHandler(out, nil))
	shelf := &hook.Shelf{Path: filepath.Join(dir, "mvm", "inbox.db"), Ready: func() error { return nil }, Log: log}
	discord.Opener(shelf)(chat.AdapterOptions{Channel: c, Workers: w, Recorder: w, Log: log, HTTP: client(), Limits: quick(), Changed: func() {}})
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the test ends, if it does not kill first
	return 0
}

// chaos is a Discord and a worker at which anything can fail.
type chaos struct {
	p       *place
	mu      sync.Mutex
	r       *rand.Rand
	left    int // failures to come
	did     map[string]int
	kill    chan struct{}       // the gateway is to be killed
	written map[string][]string // by chat, ids
}

func (c *chaos) pick(from ...string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 || c.r.IntN(6) > 0 {
		return ""
	}
	c.left--
	what := from[c.r.IntN(len(from))]
	c.did[what]++
	return what
}

// request is the Hook of Discord.
func (c *chaos) request(method, path string) discordapi.Fault {
	if strings.HasSuffix(path, "/typing") {
		return discordapi.None
	}
	step := " at " + method + " " + path[strings.LastIndex(path, "/")+1:]
	if strings.Trim(path[strings.LastIndex(path, "/")+1:], "0123456789") == "" {
		step = " at " + method + " channel"
	}
	switch what, _, _ := strings.Cut(c.pick("refused"+step, "answer lost"+step, "429"+step, "dropped"+step, "gateway killed"+step, "session lost"+step, "invalid"+step), " at "); what {
	case "refused":
		return discordapi.Refuse
	case "answer lost":
		return discordapi.Lose
	case "429":
		return discordapi.TooMany
	case "dropped":
		return discordapi.Disconnect
	case "gateway killed":
		c.killGateway()
	case "session lost":
		c.p.api.ForgetSession()
		return discordapi.Disconnect
	case "invalid":
		go c.p.api.Invalidate()
	}
	return discordapi.None
}

func (c *chaos) killGateway() {
	select {
	case c.kill <- struct{}{}:
	default:
	}
}

// message is the hook of the worker.
func (c *chaos) message(m asked, rw http.ResponseWriter) bool {
	switch c.pick("worker killed", "machine killed", "worker killed after its turn", "gateway killed at the worker", "worker says 503") {
	case "worker killed":
		c.p.worker.kill(false)
		panic(http.ErrAbortHandler)
	case "machine killed":
		c.p.worker.kill(true)
		panic(http.ErrAbortHandler)
	case "worker killed after its turn":
		c.p.worker.set(func() {
			_, known := c.p.worker.memory[m.ID]
			_, synced := c.p.worker.disk[m.ID]
			if !known && !synced && c.p.worker.running[m.ID] == nil {
				c.p.worker.begin(m)
			}
		})
		panic(http.ErrAbortHandler)
	case "gateway killed at the worker":
		c.killGateway()
	case "worker says 503":
		rw.WriteHeader(503)
		return true
	}
	return false
}

// TestChaos: with a gateway that is killed, a worker that dies with or without what it has not
// synced, and a Discord that fails at every step, no message is lost, each chat's order is
// kept, and each message has one answer.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: -chaos.seed=%d", seed, seed)
	const chats = 10
	p := newPlace(t, discordapi.Options{Heartbeat: 2 * time.Second}, "chat", alice)
	c := &chaos{p: p, r: rand.New(rand.NewPCG(seed, 1)), did: map[string]int{}, kill: make(chan struct{}, 1)}
	p.api.Hook = c.request
	p.worker.before = c.message
	p.worker.turn = func(m asked) (answer, time.Duration) {
		return answer{Reply: "heard: " + m.Content}, time.Duration(rand.IntN(4)) * 5 * time.Millisecond
	}
	for name, text := range map[string]string{"api": p.root, "worker": p.worker.server.Listener.Addr().String()} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := startGateway(t, p.dir)
	defer func() { g.kill() }()
	written := map[string][]string{}
	c.written = written
	write := func(n int) {
		id := fmt.Sprint(500000000000000000 + n%chats)
		written[id] = append(written[id], p.api.Write(id, alice, fmt.Sprint(n)))
	}
	for n := range chats {
		p.api.AddChannel(fmt.Sprint(500000000000000000+n), "")
	}
	c.until("a session", p.api.Connected, &g)
	for n := range chats { // what is written first of all in a chat while nobody is there is not read
		write(n)
	}
	all := func() bool { return c.all(written) }
	c.until("the first are answered", all, &g)
	c.mu.Lock()
	c.left = *chaosMessages / 3
	c.mu.Unlock()
	for n := chats; n < *chaosMessages; n++ {
		write(n)
		if n%25 == 0 {
			c.until("some are answered", func() bool { return c.open(written) < 40 }, &g)
		}
	}
	c.until("all are answered", all, &g)
	c.check(written)
}

// gateway is a gateway's process.
type gateway struct {
	t   *testing.T
	cmd *exec.Cmd
}

func startGateway(t *testing.T, dir string) *gateway {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), gatewayEnv+"="+dir)
	cmd.Stderr = t.Output()
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &gateway{t, cmd}
}

func (g *gateway) kill() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
}

// until waits, and kills and restarts the gateway where it is to be.
func (c *chaos) until(what string, f func() bool, g **gateway) {
	c.p.t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		select {
		case <-c.kill:
			(*g).kill()
			c.mu.Lock()
			forget := c.r.IntN(2) == 0
			c.mu.Unlock()
			if forget { // it was away for some minutes
				c.p.api.ForgetNonces()
			}
			*g = startGateway(c.p.t, c.p.dir)
		default:
		}
		if time.Now().After(end) {
			connected := c.p.api.Connected()
			(*g).kill()
			c.missing()
			log, _ := os.ReadFile(filepath.Join(c.p.dir, "log"))
			c.p.t.Fatalf("waited for: %s; session %t, Discord %+v; done %v; log:\n%s", what, connected, c.p.api.Counts(), c.did, log[max(0, len(log)-5000):])
		}
	}
}

// open counts the messages that have no answer.
func (c *chaos) open(written map[string][]string) (n int) {
	for id, all := range written {
		answered := map[string]bool{}
		for _, m := range c.p.api.Sent(id) {
			answered[m.ReplyTo] = true
		}
		for _, m := range all {
			if !answered[m] {
				n++
			}
		}
	}
	return n
}

// missing tells what is known of messages without an answer.
func (c *chaos) missing() {
	c.p.shelf = &hook.Shelf{Path: filepath.Join(c.p.dir, "mvm", "inbox.db"), Ready: func() error { return nil }, Log: slog.New(slog.DiscardHandler)}
	defer func() { _ = c.p.shelf.Close() }()
	c.p.t.Logf("kept: %+v", c.p.kept())
	for id, all := range c.written {
		for n, m := range all {
			if !slices.ContainsFunc(c.p.api.Sent(id), func(s discordapi.Message) bool { return s.ReplyTo == m }) {
				c.p.t.Logf("chat %s, message %d of %d, %s: delivered %t", id, n, len(all), m, slices.Contains(c.p.worker.order, m))
			}
		}
	}
}

func (c *chaos) all(written map[string][]string) bool { return c.open(written) == 0 }

func (c *chaos) check(written map[string][]string) {
	first := map[string]int{} // when the worker had a message first
	c.p.worker.mu.Lock()
	for n, id := range c.p.worker.order {
		if _, ok := first[id]; !ok {
			first[id] = n
		}
	}
	turns := len(c.p.worker.order)
	c.p.worker.mu.Unlock()
	total := 0
	for id, all := range written {
		total += len(all)
		var answered []string
		for _, m := range c.p.api.Sent(id) {
			if strings.HasPrefix(m.Text, "heard: ") {
				answered = append(answered, m.ReplyTo)
			}
		}
		if !slices.Equal(answered, all) {
			c.p.t.Errorf("chat %s: answered\n%v, written\n%v", id, answered, all)
		}
		if !slices.IsSortedFunc(all, func(a, b string) int { return first[a] - first[b] }) {
			c.p.t.Errorf("chat %s: the worker had its messages in another order", id)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := c.p.api.Counts()
	if counts.Missed > 0 || counts.Hammered > 0 {
		c.p.t.Errorf("%+v", counts)
	}
	c.p.t.Logf("%d messages, %d turns, %+v; %v", total, turns, counts, c.did)
}
