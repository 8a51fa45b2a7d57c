package chat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
	"mvm/test/botapi"
)

const (
	realToken = "111111:REALTOKEN_aaaaaaaaaaaaaaaaaaaaaaaaaaa"
	workerID  = "i-00000003"
	patience  = 10 * time.Minute
	chats     = 20
)

var workerIP = netip.MustParseAddr("10.240.9.3")

// host plays the host between a gateway's guest and a worker's, and has Telegram and a model.
type host struct {
	t     testing.TB
	dir   string
	root  string // the image's root filesystem
	from  string // whose worker a message is for
	allow []string
	light http.Handler // workers in place of OpenClaw's; nil: there is one with OpenClaw
	api   *botapi.Server
	web   *httptest.Server
	hear  func(said string) // what the model is asked
	model atomic.Pointer[http.Handler]
	// step is told how far a message is. It may kill, and then reports true; it is called
	// without locks.
	step func(name string) (killed bool)

	group     sync.WaitGroup
	listeners []net.Listener
	away      atomic.Bool // nobody answers on port 53
	ending    atomic.Bool

	count bool // OpenClaw counts how often it was killed

	mu     sync.Mutex // one operation on the worker at a time
	worker *exec.Cmd
	asleep bool
	boots  int
	disk   string
	called atomic.Pointer[context.CancelFunc] // calls off the sleep that is under way

	gwMu    sync.Mutex
	gateway *exec.Cmd
}

// newHost starts a gateway, and a worker with OpenClaw.
func newHost(t testing.TB) *host {
	h := newUnborn(t)
	h.startGateway()
	h.mu.Lock()
	defer h.mu.Unlock()
	must(t, h.boot())
	return h
}

// newUnborn makes a host whose worker boots when it is woken first, with an empty disk; there is
// no gateway yet.
func newUnborn(t testing.TB) *host {
	testenv.NeedRoot(t)
	h := newTelegram(t)
	img := testenv.Image(t, "builtin:openclaw")
	h.root = img.Path(*img.RootFS)
	h.disk = filepath.Join(h.dir, "disk1")
	run(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=1", h.disk, "512M")
	h.useModel(heard(h.reply))
	model := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*h.model.Load()).ServeHTTP(w, r) }), ReadHeaderTimeout: patience}
	h.listen("shared/model", func(l net.Listener) { _ = model.Serve(l) })
	h.listen("shared/api", func(l net.Listener) { relay(l, h.dialer("door"), nil) })
	h.listen("in", func(l net.Listener) { relay(l, h.dialer("shared/hook"), h.passed) })
	t.Cleanup(func() {
		h.killWorker()
		_ = model.Close()
	})
	for n := range chats {
		h.allow = append(h.allow, fmt.Sprint(100+n))
	}
	return h
}

// newTelegram makes a host with Telegram, and no gateway yet.
func newTelegram(t testing.TB) *host {
	h := &host{t: t, dir: testenv.Dir(t), from: "fixed:me", api: botapi.New(realToken, nil), step: func(string) bool { return false }, hear: func(string) {}}
	h.web = httptest.NewServer(http.HandlerFunc(h.serveTelegram))
	for _, d := range []string{"root", "shared"} {
		must(t, os.Mkdir(filepath.Join(h.dir, d), 0o755))
	}
	h.listen("host", func(l net.Listener) { h.serveHost(l) })
	t.Cleanup(func() { // after all that uses it has ended
		h.ending.Store(true)
		h.killGateway()
		h.api.Close()
		h.web.Close()
		for _, l := range h.listeners {
			_ = l.Close()
		}
		h.group.Wait()
	})
	return h
}

func (h *host) listen(name string, serve func(net.Listener)) {
	h.t.Helper()
	l, err := listenUnix(filepath.Join(h.dir, name))
	must(h.t, err)
	h.listeners = append(h.listeners, l)
	h.group.Go(func() { serve(l) })
}

func (h *host) dialer(name string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.Dial("unix", filepath.Join(h.dir, name)) }
}

// passed is told of a message to the worker, and of its answer.
func (h *host) passed(answer bool) {
	if answer {
		h.step("answered 200")
	} else {
		h.step("posted")
	}
}

// reply makes the model's answer.
func (h *host) reply(last string) string {
	h.hear(last)
	h.step("model")
	return "heard: " + strings.Join(keysIn(last), " ")
}

// serveTelegram is the Bot API, with steps.
func (h *host) serveTelegram(w http.ResponseWriter, r *http.Request) {
	method := strings.ToLower(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	if strings.HasPrefix(r.URL.Path, "/file/") {
		method = "file"
	}
	switch method {
	case "getfile", "file":
		if h.step(method) {
			panic(http.ErrAbortHandler)
		}
		h.api.ServeHTTP(w, r)
	case "sendmessage":
		if h.step("send") { // it was cut off on its way
			panic(http.ErrAbortHandler)
		}
		h.api.ServeHTTP(w, r)
		h.step("sent")
	case "getupdates":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		confirms := strings.Contains(string(body), `"offset"`)
		if confirms {
			h.step("confirm")
		}
		h.api.ServeHTTP(w, r)
		if confirms {
			h.step("confirmed")
		}
	default:
		h.api.ServeHTTP(w, r)
	}
}

// channel is the bot, as the gateway has it.
func (h *host) channel() guestproto.Channel {
	c := guestproto.Channel{Token: []byte(realToken), Key: []byte("0123456789abcdef"), Channel: mvm.Channel{Name: "bot", Kind: mvm.ChannelTelegram, Secret: "telegram_token", Allow: h.allow, APIRoot: h.web.URL,
		To: mvm.ChannelTarget{PoolID: "workers", Selector: mvm.ChannelSelector{From: h.from}, TargetPort: hookPort, Path: "/telegram-webhook", Accept: mvm.AcceptDurable}}}
	return c
}

// configure is what the guest of the role gets.
func (h *host) configure(reason string, role mvm.Role) *guestproto.Configure {
	c := &guestproto.Configure{Reason: reason, UnixNanos: time.Now().UnixNano(), Entropy: make([]byte, 32), TenantID: "alice", Hostname: "h", Generation: 1, Role: role}
	ch := h.channel()
	if role == mvm.RoleGateway {
		c.PoolID, c.InstanceID, c.Channels = "gateways", "i-00000002", []guestproto.Channel{ch}
		return c
	}
	file, err := json.Marshal(guestproto.WorkerChannel{Name: ch.Name, Kind: ch.Kind, APIRoot: fmt.Sprintf("http://127.0.0.1:%d", apiPort), Token: ch.Placeholder(workerID, "me"),
		Port: hookPort, Path: ch.To.Path, Secret: ch.WebhookSecret(workerID), Allow: ch.Allow})
	must(h.t, err)
	c.PoolID, c.InstanceID, c.Key = "workers", workerID, "me"
	c.Secrets = map[string][]byte{"gateway_token": []byte("proof-token"), "channels/bot.json": file}
	c.Env = map[string]string{"OPENCLAW_MODEL_BASE_URL": fmt.Sprintf("http://127.0.0.1:%d/v1", modelPort), "OPENCLAW_MODEL": "m"}
	return c
}

// spawn starts the test binary in a role.
func (h *host) spawn(role string, attr *syscall.SysProcAttr) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(filepath.Join(h.dir, role+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(exe)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", roleEnv + "=" + role, dirEnv + "=" + h.dir,
		diskEnv + "=" + h.disk, rootEnv + "=" + h.root, breakEnv + "=" + *breakFlag}
	if h.count {
		cmd.Env = append(cmd.Env, countEnv+"=1")
	}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, out, attr
	return cmd, cmd.Start()
}

// ask asks the guest behind the socket.
func (h *host) ask(ctx context.Context, socket string, req guestproto.Request) (guestproto.Response, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(h.dir, socket))
	if err != nil {
		return guestproto.Response{}, err
	}
	defer conn.Close()
	return guestproto.Call(ctx, conn, req)
}

const askTimeout = 30 * time.Second

func (h *host) askGuest(ctx context.Context, req guestproto.Request) (guestproto.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return h.ask(ctx, "shared/guest", req)
}

// configured waits until the guest behind the socket has taken its configuration.
func (h *host) configured(socket string, c *guestproto.Configure) error {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && !h.ending.Load(); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		var resp guestproto.Response
		resp, err = h.ask(ctx, socket, guestproto.Request{Configure: c})
		cancel()
		switch {
		case err != nil:
		case resp.ConfigureAck.Success:
			return nil
		default:
			err = errors.New(*resp.ConfigureAck.Detail)
		}
	}
	return fmt.Errorf("configure %s: %w", socket, err)
}

// startGateway starts the gateway's guest, and killGateway kills it.
func (h *host) startGateway() {
	h.gwMu.Lock()
	defer h.gwMu.Unlock()
	cmd, err := h.spawn("gateway", &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL})
	if err == nil {
		h.gateway = cmd
		err = h.configured("gateway", h.configure("boot", mvm.RoleGateway))
	}
	if err != nil && !h.ending.Load() {
		h.t.Errorf("start the gateway: %v", err)
	}
}

func (h *host) killGateway() {
	h.gwMu.Lock()
	defer h.gwMu.Unlock()
	if h.gateway != nil {
		_ = h.gateway.Process.Kill()
		_ = h.gateway.Wait()
		h.gateway = nil
	}
}

// boot starts the worker. h.mu is held.
func (h *host) boot() error {
	cmd, err := h.spawn("worker", &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS})
	if err != nil {
		return err
	}
	h.worker, h.asleep = cmd, false
	h.boots++
	return h.configured("shared/guest", h.configure("boot", mvm.RoleWorker))
}

// killWorker kills the worker's machine, and leaves the disk as it is.
func (h *host) killWorker() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.worker != nil {
		_ = h.worker.Process.Kill()
		_ = h.worker.Wait()
		h.worker = nil
	}
}

// powerLoss kills the worker's machine with what its disk has not synced, and boots it anew.
func (h *host) powerLoss() error {
	h.callOff()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.worker == nil { // it has not been booted yet
		return nil
	}
	if err := h.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	next := filepath.Join(h.dir, fmt.Sprint("disk", h.boots+1))
	if out, err := exec.Command("cp", "--sparse=always", h.disk, next).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the disk: %w: %s", err, out)
	}
	_ = h.worker.Process.Kill()
	_ = h.worker.Wait()
	if err := os.Remove(h.disk); err != nil {
		return err
	}
	h.disk = next
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	// A gateway that is gone knows of no connection.
	_, _ = h.ask(ctx, "gateway", guestproto.Request{Fence: &guestproto.Fence{InstanceID: workerID, IP: workerIP, Boot: h.boots, Gone: true}})
	return h.boot()
}

// processes are those of the worker: all in its namespace.
func (h *host) processes() (pids []int, err error) {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.worker.Process.Pid))
	if err != nil {
		return nil, err
	}
	all, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	for _, path := range all {
		if is, linkErr := os.Readlink(path); linkErr == nil && is == ns {
			var pid int
			if _, err := fmt.Sscanf(path, "/proc/%d/", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids, err
}

// signal sends to all of the worker until no process is new.
func (h *host) signal(s syscall.Signal) error {
	for known := map[int]bool{}; ; {
		pids, err := h.processes()
		if err != nil {
			return err
		}
		fresh := 0
		for _, pid := range pids {
			if !known[pid] {
				known[pid] = true
				fresh++
				_ = syscall.Kill(pid, s)
			}
		}
		if fresh == 0 {
			return nil
		}
	}
}

// openClaw is OpenClaw's process; 0: there is none.
func (h *host) openClaw() int {
	resp, err := h.askGuest(context.Background(), guestproto.Request{Status: true})
	if err != nil {
		return 0
	}
	inside := 0
	for _, s := range resp.Status.Services {
		if s.Name == "openclaw" {
			inside = s.PID
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	pids, err := h.processes()
	if err != nil || inside == 0 {
		return 0
	}
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if _, ids, ok := strings.Cut(string(b), "NSpid:"); ok && slices.Contains(strings.Fields(strings.SplitN(ids, "\n", 2)[0])[1:], fmt.Sprint(inside)) {
			return pid
		}
	}
	return 0
}

// callOff calls off a sleep that is under way, as a message does.
func (h *host) callOff() {
	if off := h.called.Load(); off != nil {
		(*off)()
	}
}

// errBusy says that something is under way at the gateway.
var errBusy = errors.New("requests are under way")

// sleep takes the worker to sleep by the steps of a host (internal/lifecycle). What comes
// before it is frozen calls it off.
func (h *host) sleep() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h.called.Store(&cancel)
	defer h.called.Store(nil)
	resp, err := h.ask(ctx, "gateway", guestproto.Request{Fence: &guestproto.Fence{InstanceID: workerID, IP: workerIP}})
	if err == nil && resp.FenceAck.ActiveRequests > 0 {
		return errBusy
	}
	if err == nil {
		err = h.holdStill(ctx)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_, settleErr := h.askGuest(context.Background(), guestproto.Request{Settle: true})
		return errors.Join(err, settleErr)
	}
	h.asleep = true
	return h.signal(syscall.SIGSTOP)
}

// holdStill asks the worker's guest to suspend its services and to sync.
func (h *host) holdStill(ctx context.Context) error {
	resp, err := h.askGuest(ctx, guestproto.Request{Suspend: &guestproto.Suspend{}})
	switch {
	case err != nil:
		return err
	case !resp.SuspendAck.Success:
		return errors.New(*resp.SuspendAck.Detail)
	}
	_, err = h.askGuest(ctx, guestproto.Request{SleepPrep: &guestproto.SleepPrep{}})
	return err
}

// wake has the worker awake.
func (h *host) wake() error {
	h.callOff()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.worker == nil {
		return h.boot()
	}
	if !h.asleep {
		return nil
	}
	if err := h.signal(syscall.SIGCONT); err != nil {
		return err
	}
	h.asleep = false
	if err := h.configured("shared/guest", h.configure("wake", mvm.RoleWorker)); err != nil {
		return err
	}
	_, err := h.askGuest(context.Background(), guestproto.Request{Settle: true})
	return err
}

// serveHost answers the gateway on port 53.
func (h *host) serveHost(l net.Listener) {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		group.Go(func() {
			defer c.Close()
			var req guestproto.HostRequest
			if h.away.Load() || guestproto.Receive(c, &req) != nil {
				return
			}
			resp := h.answer(req)
			if !h.away.Load() {
				_ = guestproto.Send(c, resp)
			}
		})
	}
}

func (h *host) answer(req guestproto.HostRequest) guestproto.HostResponse {
	if h.light != nil {
		return answerLight(req)
	}
	fail := func(err error) guestproto.HostResponse {
		return guestproto.HostResponse{Error: &guestproto.Error{Message: err.Error()}}
	}
	switch {
	case req.Acquire != nil:
		h.step("acquire")
		if err := h.wake(); err != nil {
			return guestproto.HostResponse{AcquireResult: &guestproto.AcquireResult{Detail: new(err.Error()), RetrySecs: 1}}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		return guestproto.HostResponse{AcquireResult: &guestproto.AcquireResult{Success: true, Instances: []guestproto.Awake{{InstanceID: workerID, IP: workerIP, Boot: h.boots}}}}
	case req.Preflight != nil:
		h.step("preflight")
		resp, err := h.askGuest(context.Background(), guestproto.Request{Preflight: true})
		if err != nil {
			return fail(err)
		}
		return guestproto.HostResponse{PreflightAck: resp.PreflightAck}
	case req.QueryInstanceStatus != nil:
		h.mu.Lock()
		defer h.mu.Unlock()
		state := mvm.StateRunning
		switch {
		case h.worker == nil:
			state = mvm.StateReady
		case h.asleep:
			state = mvm.StateSleeping
		}
		return guestproto.HostResponse{InstanceStatus: &guestproto.InstanceStatus{Status: state, Boot: h.boots}}
	case req.SyncInstance != nil:
		h.step("accepted")
		return h.sync(req.SyncInstance.Boot)
	case req.ReportMessages != nil:
		return guestproto.HostResponse{MessagesAck: true}
	case req.ReportHealth != nil:
		return guestproto.HostResponse{HealthAck: true}
	case req.ReportActivity != nil:
		return guestproto.HostResponse{ActivityAck: true}
	}
	return fail(errors.New("the host can't do this"))
}

// sync has the worker sync, in the boot that the gateway means.
func (h *host) sync(boot int) guestproto.HostResponse {
	resp, err := h.askGuest(context.Background(), guestproto.Request{Sync: true})
	h.mu.Lock()
	anew := h.boots != boot
	h.mu.Unlock()
	switch {
	case err != nil:
		return guestproto.HostResponse{SyncAck: &guestproto.Ack{Detail: new(err.Error())}}
	case anew:
		return guestproto.HostResponse{SyncAck: &guestproto.Ack{Detail: new("it has booted anew")}}
	}
	h.step("synced")
	return guestproto.HostResponse{SyncAck: resp.SyncAck}
}

// ready waits until OpenClaw may get a message.
func (h *host) ready() {
	h.t.Helper()
	h.until("OpenClaw is ready and idle", func() error {
		resp, err := h.askGuest(context.Background(), guestproto.Request{Preflight: true})
		if err == nil && !resp.PreflightAck.Safe {
			err = errors.New(resp.PreflightAck.Reason)
		}
		return err
	})
}

// until waits for what must happen, and shows logs where it does not.
func (h *host) until(what string, ok func() error) {
	h.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	h.logs()
	h.t.Fatalf("%s: not within %s: %v", what, patience, err)
}

// logs shows what the guests have said last.
func (h *host) logs() {
	for _, name := range []string{"worker.log", "gateway.log"} {
		out, _ := exec.Command("tail", "-n", "40", filepath.Join(h.dir, name)).CombinedOutput()
		h.t.Logf("%s:\n%s", name, out)
	}
	for _, line := range h.said(80) {
		h.t.Logf("worker: %+v", line)
	}
}

// said are the last lines that the worker's services have written; none where its guest does not
// answer.
func (h *host) said(tail int) (lines []guestproto.LogLine) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(h.dir, "shared/guest"))
	if err != nil {
		return nil
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if guestproto.Send(conn, guestproto.Request{Logs: &guestproto.Logs{Tail: tail}}) != nil {
		return nil
	}
	for {
		var resp guestproto.Response
		if guestproto.Receive(conn, &resp) != nil || resp.LogLine == nil {
			return lines
		}
		lines = append(lines, *resp.LogLine)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
