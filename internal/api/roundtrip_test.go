package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/api"
)

// askerEnv makes this binary ask at the socket that it names, and nothing else.
const askerEnv = "MVM_TEST_ASK_SOCKET"

func TestMain(m *testing.M) {
	if socket := os.Getenv(askerEnv); socket != "" {
		ask(socket)
		return
	}
	goleak.VerifyTestMain(m)
}

func js(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// serve offers svc on a socket of its own until the test ends.
func serve(t *testing.T, svc api.Service, cfg api.ServerConfig) (socket string, srv *api.Server) {
	t.Helper()
	return serveWith(t, svc, cfg, func(*api.Server) {})
}

// serveWith is serve, with a change of the server before it serves.
func serveWith(t *testing.T, svc api.Service, cfg api.ServerConfig, change func(*api.Server)) (socket string, srv *api.Server) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	ln, err := api.Listen(socket, -1)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Group == 0 {
		cfg.Group = -1
	}
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	srv = api.NewServer(svc, cfg)
	change(srv)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := srv.Close(ctx); err != nil {
			t.Errorf("close server: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := ln.Close(); err != nil {
			t.Errorf("close listener: %v", err)
		}
	})
	return socket, srv
}

func dial(t *testing.T, socket string) *api.Client {
	c := api.Dial(socket)
	t.Cleanup(c.Close)
	return c
}

func start(t *testing.T, svc *script) *api.Client {
	socket, _ := serve(t, svc, api.ServerConfig{})
	return dial(t, socket)
}

func me(t *testing.T) string {
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return "cli:" + u.Username
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// call is one call of a method with what the service must get and the caller see.
type call struct {
	name string
	do   func(ctx context.Context, c api.Service, progress func(mvm.Progress)) (any, error)
	asks string // arguments as the service must see them, as JSON
	want any
	long bool // reports progress
	byID bool // names no tenant
}

func value[T any](v T, err error) (any, error) { return v, err }

func calls() []call {
	netID := 4
	spec := mvm.TenantSpec{ID: "acme", NetID: &netID, Quota: &mvm.Quota{MaxVCPUs: 1}, Pinned: true}
	pinned := true
	up := mvm.TenantUpdate{Pinned: &pinned, HostServices: &[]int{1}, If: &mvm.TenantIf{Quota: &mvm.Quota{MaxWarm: 2}}}
	ps := poolSpec()
	inst := mvm.Address{Tenant: "acme", Pool: "workers", Instance: "i-a3f7b2c1"}
	key := mvm.Address{Tenant: "acme", Pool: "workers", Key: "a%b?c#d&e=f"}
	secrets := map[string][]byte{"a": []byte("\x00\xff"), "gone": nil, "empty": {}}
	dep := mvm.Deployment{Tenant: spec, Pools: []mvm.PoolSpec{ps}, Secrets: map[string][]byte{"k": []byte("v")}}
	noSecrets, without := dep, dep
	noSecrets.Secrets, without.Secrets = nil, map[string][]byte{}
	state := mvm.ReconcileRequest{State: json.RawMessage(`{"node_id":"n","tenants":[]}`), Keep: true, NoWait: true}
	type progress = func(mvm.Progress)
	return append(buildCalls(), []call{
		{name: "CreateTenant", asks: js([]any{spec}), want: tenant(), do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.CreateTenant(x, spec)) }},
		{name: "UpdateTenant", asks: js([]any{"acme", up}), want: tenant(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.UpdateTenant(x, "acme", up))
		}},
		{name: "Tenants", asks: "null", want: []mvm.Tenant{tenant()}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Tenants(x)) }},
		{name: "Tenant", asks: `["acme"]`, want: []any{tenant(), usage()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			t, u, err := c.Tenant(x, "acme")
			return []any{t, u}, err
		}},
		{name: "DestroyTenant", long: true, asks: `["acme"]`, do: func(x context.Context, c api.Service, p progress) (any, error) {
			return nil, c.DestroyTenant(x, "acme", p)
		}},
		{name: "SetSecrets", asks: js([]any{"acme", secrets}), want: 5, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.SetSecrets(x, "acme", secrets))
		}},
		{name: "RotateKey", asks: `["acme"]`, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return nil, c.RotateKey(x, "acme")
		}},
		{name: "RotateSecrets", asks: `["acme"]`, want: 6, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.RotateSecrets(x, "acme"))
		}},
		{name: "CreatePool", asks: js([]any{"acme", ps}), want: pool(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.CreatePool(x, "acme", ps))
		}},
		{name: "UpdatePool", asks: js([]any{"acme", "gateways", mvm.PoolUpdate{Spec: &ps}}), want: pool(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.UpdatePool(x, "acme", "gateways", mvm.PoolUpdate{Spec: &ps}))
		}},
		{name: "Pools", asks: `[""]`, want: []mvm.Pool{pool()}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Pools(x, "")) }},
		{name: "Pools", asks: `["acme"]`, want: []mvm.Pool{pool()}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Pools(x, "acme")) }},
		{name: "Pool", asks: `["acme","gateways"]`, want: pool(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.Pool(x, "acme", "gateways"))
		}},
		{name: "BuildPool", long: true, asks: `["acme","gateways"]`, want: build(), do: func(x context.Context, c api.Service, p progress) (any, error) {
			return value(c.BuildPool(x, "acme", "gateways", p))
		}},
		{name: "RollbackPool", asks: `["acme","gateways","b-00000001"]`, want: build(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.RollbackPool(x, "acme", "gateways", "b-00000001"))
		}},
		{name: "GCPool", asks: `["acme","gateways"]`, want: []mvm.Build{}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.GCPool(x, "acme", "gateways"))
		}},
		{name: "DestroyPool", long: true, asks: `["acme","gateways"]`, do: func(x context.Context, c api.Service, p progress) (any, error) {
			return nil, c.DestroyPool(x, "acme", "gateways", p)
		}},
		{name: "CreateInstance", asks: `["acme","workers","bob"]`, want: instance(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.CreateInstance(x, "acme", "workers", "bob"))
		}},
		{name: "Instances", asks: js([]any{mvm.Address{}}), want: []mvm.Instance{instance()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.Instances(x, mvm.Address{}))
		}},
		{name: "Instances", asks: js([]any{key}), want: []mvm.Instance{instance()}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Instances(x, key)) }},
		{name: "Instance", asks: js([]any{inst}), want: instance(), do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Instance(x, inst)) }},
		{name: "Instance", asks: js([]any{key}), want: instance(), do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Instance(x, key)) }},
		{name: "Operate", long: true, asks: js([]any{inst, mvm.OpRequest{Op: mvm.OpSleep, Force: true, Why: "w"}}), want: instance(), do: func(x context.Context, c api.Service, p progress) (any, error) {
			return value(c.Operate(x, inst, mvm.OpRequest{Op: mvm.OpSleep, Force: true, Why: "w"}, p))
		}},
		{name: "Usage", asks: js([]any{mvm.Address{}}), want: []mvm.InstanceUsage{instanceUsage()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.Usage(x, mvm.Address{}))
		}},
		{name: "Usage", asks: js([]any{inst}), want: []mvm.InstanceUsage{instanceUsage()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.Usage(x, inst))
		}},
		{name: "Snapshots", asks: js([]any{mvm.Address{}}), want: []mvm.AsideSnapshot{asideSnapshot()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.Snapshots(x, mvm.Address{}))
		}},
		{name: "Snapshots", asks: js([]any{inst}), want: []mvm.AsideSnapshot{asideSnapshot()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.Snapshots(x, inst))
		}},
		{name: "DoctorTenant", asks: `["acme"]`, want: []mvm.Finding{finding()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.DoctorTenant(x, "acme"))
		}},
		{name: "Messages", asks: `["acme"]`, want: []mvm.Message{message()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.Messages(x, "acme"))
		}},
		{name: "Message", asks: `["acme","gateways",7]`, want: func() mvm.Message { m := message(); m.Body = []byte("{}"); return m }(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.Message(x, "acme", "gateways", 7))
		}},
		{name: "RetryMessage", asks: `["acme","gateways",7]`, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return nil, c.RetryMessage(x, "acme", "gateways", 7)
		}},
		{name: "DropMessage", asks: `["acme","gateways",7]`, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return nil, c.DropMessage(x, "acme", "gateways", 7)
		}},
		{name: "RestoreSnapshot", asks: js([]any{inst, "s-00000001"}), want: instance(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.RestoreSnapshot(x, inst, "s-00000001"))
		}},
		{name: "RemoveSnapshot", asks: js([]any{inst, "s-00000001"}), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return nil, c.RemoveSnapshot(x, inst, "s-00000001")
		}},
		{name: "Why", asks: js([]any{inst}), want: story(), do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Why(x, inst)) }},
		{name: "Stats", asks: js([]any{inst}), want: instanceStats(), do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Stats(x, inst)) }},
		{name: "Logs", asks: js([]any{inst, mvm.LogsSpec{Service: "main", Tail: 3, Console: true, Since: day, Previous: true}}), want: []mvm.LogLine{logLine()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			var got []mvm.LogLine
			err := c.Logs(x, inst, mvm.LogsSpec{Service: "main", Tail: 3, Console: true, Since: day, Previous: true}, func(l mvm.LogLine) error { got = append(got, l); return nil })
			return got, err
		}},
		{name: "Apply", long: true, asks: js([]any{dep, false, mvm.ApplyOptions{Dry: true}}), want: []mvm.PlanStep{step()}, do: func(x context.Context, c api.Service, p progress) (any, error) {
			return value(c.Apply(x, dep, mvm.ApplyOptions{Dry: true}, p))
		}},
		{name: "Apply", long: true, asks: js([]any{noSecrets, true, mvm.ApplyOptions{}}), want: []mvm.PlanStep{step()}, do: func(x context.Context, c api.Service, p progress) (any, error) {
			return value(c.Apply(x, noSecrets, mvm.ApplyOptions{}, p))
		}},
		{name: "Apply", long: true, asks: js([]any{without, false, mvm.ApplyOptions{NoWait: true}}), want: []mvm.PlanStep{step()}, do: func(x context.Context, c api.Service, p progress) (any, error) {
			return value(c.Apply(x, without, mvm.ApplyOptions{NoWait: true}, p))
		}},
		{name: "Reconcile", long: true, asks: js([]any{state}), want: []mvm.PlanStep{step()}, do: func(x context.Context, c api.Service, p progress) (any, error) {
			return value(c.Reconcile(x, state, p))
		}},
		{name: "Desired", asks: "null", want: json.RawMessage(`{"node_id":"n"}`), do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Desired(x)) }},
		{name: "Events", asks: js([]any{mvm.EventFilter{Tenant: "acme", Pool: "workers", Instance: "i-a3f7b2c1", Tail: 4}}), want: []mvm.Event{event()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			var got []mvm.Event
			f := mvm.EventFilter{Tenant: "acme", Pool: "workers", Instance: "i-a3f7b2c1", Tail: 4}
			err := c.Events(x, f, func(e mvm.Event) error { got = append(got, e); return nil })
			return got, err
		}},
		{name: "Events", asks: js([]any{wholeFilter()}), want: []mvm.Event{event()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			var got []mvm.Event
			err := c.Events(x, wholeFilter(), func(e mvm.Event) error { got = append(got, e); return nil })
			return got, err
		}},
		{name: "VerifyEvents", asks: `["4:ab"]`, want: auditReport(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.VerifyEvents(x, "4:ab"))
		}},
		{name: "NodeInfo", asks: "null", want: mvm.NodeInfo{NodeID: "n", Started: day, CPUs: 2}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.NodeInfo(x)) }},
		{name: "NodeStats", asks: "null", want: mvm.NodeStats{Instances: map[mvm.State]int{mvm.StateWarm: 1}, AgentRSS: 3}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.NodeStats(x)) }},
		{name: "NodeDisk", asks: "null", want: mvm.NodeDisk{Images: 1, Sleepers: 2, DataDisks: 3, SetAside: 4, Logs: 6, Other: 7, Free: 5}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.NodeDisk(x)) }},
		{name: "NodeCheck", long: true, asks: `[{"repair":true,"read_data":true}]`, want: []mvm.Finding{finding()}, do: func(x context.Context, c api.Service, p progress) (any, error) {
			return value(c.NodeCheck(x, mvm.NodeCheck{Repair: true, ReadData: true}, p))
		}},
		{name: "NodeGC", asks: "null", want: int64(77), do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.NodeGC(x)) }},
		{name: "NetVerify", long: true, asks: `[true]`, want: []mvm.Finding{finding()}, do: func(x context.Context, c api.Service, p progress) (any, error) { return value(c.NetVerify(x, true, p)) }},
		{name: "Doctor", asks: "null", want: []mvm.Finding{finding()}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Doctor(x)) }},
	}...)
}

func wholeFilter() mvm.EventFilter {
	return mvm.EventFilter{Tenant: "acme", Since: day.Add(time.Nanosecond), Actions: []mvm.Action{mvm.PoolBuilt, mvm.WakeRefused}, After: 1 << 60}
}

func TestEveryMethodGoesThereAndBack(t *testing.T) {
	svc := &script{}
	c := start(t, svc)
	for _, tc := range calls() {
		t.Run(tc.name, func(t *testing.T) {
			var texts []string
			got, err := tc.do(ctxOf(t), c, func(p mvm.Progress) { texts = append(texts, p.Text) })
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("%s by %s: %s", tc.name, me(t), tc.asks); svc.last() != want {
				t.Errorf("service got\n%s\nwant\n%s", svc.last(), want)
			}
			if diff := cmp.Diff(js(tc.want), js(got)); diff != "" {
				t.Errorf("caller got (-want +got):\n%s", diff)
			}
			if tc.long && strings.Join(texts, " ") != "one two" {
				t.Errorf("progress %q", texts)
			}
		})
	}
}

func TestEveryKindOfErrorGoesBack(t *testing.T) {
	for _, kind := range []mvm.Kind{mvm.KindInternal, mvm.KindInvalid, mvm.KindNotFound, mvm.KindExists, mvm.KindQuota,
		mvm.KindPolicy, mvm.KindState, mvm.KindUnavailable, mvm.KindTimeout, mvm.KindCanceled, mvm.KindLeftAlone} {
		svc := &script{err: fmt.Errorf("wrapped: %w", mvm.Errorf(kind, "no such luck").WithFix("try harder"))}
		if kind == mvm.KindState {
			svc.err = mvm.Errorf(kind, "no such luck").WithFix("try harder")
		}
		c := start(t, svc)
		for _, tc := range calls() {
			_, err := tc.do(ctxOf(t), c, nil)
			if mvm.KindOf(err) != kind || strings.Count(fmt.Sprint(err), "try harder") != 1 || !strings.Contains(fmt.Sprint(err), "no such luck (try harder)") {
				t.Errorf("%s with kind %s: got %s: %v", tc.name, kind, mvm.KindOf(err), err)
			}
		}
	}
}

func TestErrorsWithoutKindKeepTheirMeaning(t *testing.T) {
	for err, want := range map[error]mvm.Kind{context.Canceled: mvm.KindCanceled, context.DeadlineExceeded: mvm.KindTimeout, errors.New("x"): mvm.KindInternal} {
		c := start(t, &script{err: err})
		if _, got := c.Tenants(ctxOf(t)); mvm.KindOf(got) != want {
			t.Errorf("%v came back as %s, want %s", err, mvm.KindOf(got), want)
		}
	}
}

// TestAgentThatIsAway: what failed because the agent itself shuts down, or has too much to
// do, comes back as that, whatever was wrapped around it.
func TestAgentThatIsAway(t *testing.T) {
	for name, err := range map[string]error{
		"rate":     api.TooMany(time.Second, "too many"),
		"closing":  mvm.Errorf(mvm.KindUnavailable, "start i-x: intent: %w", mvm.Away("agent shuts down")),
		"canceled": mvm.Errorf(mvm.KindCanceled, "apply acme: %w", mvm.Away("agent shuts down")),
	} {
		c := start(t, &script{err: err})
		for _, tc := range calls() {
			if _, got := tc.do(ctxOf(t), c, nil); !mvm.IsKind(got, mvm.KindUnavailable) || !errors.Is(got, mvm.ErrAway) {
				t.Errorf("%s with %s: got %s: %v", tc.name, name, mvm.KindOf(got), got)
			}
		}
	}
	c := start(t, &script{err: mvm.Errorf(mvm.KindUnavailable, "the guest does not answer")})
	if _, err := c.Tenants(ctxOf(t)); errors.Is(err, mvm.ErrAway) {
		t.Errorf("a guest that is away came back as the agent: %v", err)
	}
}

// TestWhoWaitsIsToldThatTheAgentGoes: the end of the server is not its clients' doing.
func TestWhoWaitsIsToldThatTheAgentGoes(t *testing.T) {
	for name, do := range map[string]func(ctx context.Context, c *api.Client) error{
		"apply": func(ctx context.Context, c *api.Client) error {
			_, err := c.Apply(ctx, mvm.Deployment{}, mvm.ApplyOptions{}, nil)
			return err
		},
		"logs": func(ctx context.Context, c *api.Client) error {
			return c.Logs(ctx, here, mvm.LogsSpec{Follow: true}, func(mvm.LogLine) error { return nil })
		},
		"exec": func(ctx context.Context, c *api.Client) error {
			_, err := c.Exec(ctx, here, mvm.ExecSpec{Argv: []string{"x"}}, mvm.ExecIO{Stdout: io.Discard, Stderr: io.Discard})
			return err
		},
		"operate": func(ctx context.Context, c *api.Client) error {
			_, err := c.Operate(ctx, here, mvm.OpRequest{Op: mvm.OpSleep}, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			svc := &script{block: make(chan struct{}), ended: make(chan error, 1)}
			svc.exec = func(ctx context.Context, _ mvm.ExecSpec, _ mvm.ExecIO) (int, error) {
				<-ctx.Done()
				return -1, ctx.Err()
			}
			socket, srv := serve(t, svc, api.ServerConfig{})
			done := make(chan error, 1)
			go func() { done <- do(ctxOf(t), dial(t, socket)) }()
			eventually(t, func() error {
				if svc.last() == "" {
					return errors.New("the service was not asked")
				}
				return nil
			})
			short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			if err := srv.Close(short); err != nil {
				t.Errorf("close: %v", err)
			}
			if err := <-done; !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(fmt.Sprint(err), "agent shuts down") {
				t.Errorf("it got %s: %v", mvm.KindOf(err), err)
			}
		})
	}
}

func TestUnknownPathIsNotFound(t *testing.T) {
	socket, _ := serve(t, &script{}, api.ServerConfig{})
	web := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }}}
	defer web.CloseIdleConnections()
	for _, path := range []string{"/", "/nowhere", "/v1/nothing", "/v2/tenants", "/v1/tenants/acme/nothing"} {
		resp, err := web.Get("http://agent" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), `"kind":"not_found"`) {
			t.Errorf("%s: status %d, %s, %v; want 404", path, resp.StatusCode, body, err)
		}
	}
}

func TestVersion(t *testing.T) {
	socket, _ := serve(t, &script{}, api.ServerConfig{Version: api.Version{Version: "v1", Revision: "abc", Go: "go"}})
	got, err := dial(t, socket).Version(ctxOf(t))
	if want := (api.Version{API: 1, Version: "v1", Revision: "abc", Go: "go"}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
