package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/driver/firecracker/api"
	"mvm/test/fcapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers on a socket with the handler, and returns a client for it.
func serve(t *testing.T, h http.HandlerFunc) *api.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() {
		_ = srv.Close()
		serving.Wait()
	})
	return api.New(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	})
}

func description(t *testing.T) *fcapi.Description {
	t.Helper()
	d, err := fcapi.Read()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// calls are all that the client can ask.
func calls() map[string]func(context.Context, *api.Client) error {
	type ctx = context.Context
	return map[string]func(ctx, *api.Client) error{
		"PUT /machine-config": func(x ctx, c *api.Client) error {
			return c.SetMachine(x, api.MachineConfig{VCPUs: 2, MemMiB: 256, TrackDirtyPages: true})
		},
		"PUT /boot-source": func(x ctx, c *api.Client) error {
			return c.SetBootSource(x, api.BootSource{Kernel: "/k", Initrd: "/i", Args: "panic=-1"})
		},
		"PUT /drives/{drive_id}": func(x ctx, c *api.Client) error {
			return c.AddDrive(x, api.Drive{ID: "disk0", Path: "/d", ReadOnly: true, Cache: api.Writeback})
		},
		"PUT /network-interfaces/{iface_id}": func(x ctx, c *api.Client) error {
			return c.AddNetwork(x, api.NetworkInterface{ID: "eth0", TAP: "tn0i3", MAC: "02:fc:00:00:00:03"})
		},
		"PUT /vsock":             func(x ctx, c *api.Client) error { return c.SetVsock(x, api.Vsock{CID: 3, Path: "v.sock"}) },
		"PUT /entropy":           func(x ctx, c *api.Client) error { return c.SetEntropy(x, api.Entropy{}) },
		"PUT /logger":            func(x ctx, c *api.Client) error { return c.SetLogger(x, api.Logger{Level: "Warning", ShowLevel: true}) },
		"PUT /metrics":           func(x ctx, c *api.Client) error { return c.SetMetrics(x, api.Metrics{Path: "metrics"}) },
		"PUT /serial":            func(x ctx, c *api.Client) error { return c.SetSerial(x, api.Serial{Path: "console"}) },
		"PUT /actions":           func(x ctx, c *api.Client) error { return c.Act(x, api.InstanceStart) },
		"PUT /actions (metrics)": func(x ctx, c *api.Client) error { return c.Act(x, api.FlushMetrics) },
		"PUT /actions (keys)":    func(x ctx, c *api.Client) error { return c.Act(x, api.SendCtrlAltDel) },
		"PATCH /vm":              func(x ctx, c *api.Client) error { return c.SetState(x, api.Paused) },
		"PATCH /vm (resume)":     func(x ctx, c *api.Client) error { return c.SetState(x, api.Resumed) },
		"PUT /snapshot/create": func(x ctx, c *api.Client) error {
			return c.Create(x, api.SnapshotCreate{State: "state", Memory: "/m", Type: api.Full})
		},
		"PUT /snapshot/create (diff)": func(x ctx, c *api.Client) error {
			return c.Create(x, api.SnapshotCreate{State: "state", Memory: "/m", Type: api.Diff})
		},
		"PUT /snapshot/load": func(x ctx, c *api.Client) error {
			return c.Load(x, api.SnapshotLoad{State: "state", Memory: api.MemoryBackend{Type: api.File, Path: "/m"}, TrackDirtyPages: true,
				Networks: []api.NetworkOverride{{ID: "eth0", TAP: "tn0i3"}}})
		},
		"GET /": func(x ctx, c *api.Client) error { _, err := c.Describe(x); return err },
	}
}

// Every request that the client can make is one of Firecracker's, to the last field.
func TestEveryRequestFitsTheDescription(t *testing.T) {
	doc := description(t)
	for name, call := range calls() {
		t.Run(name, func(t *testing.T) {
			var route string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				route = doc.Route(r.Method, r.URL.Path)
				if err := doc.Check(r.Method, r.URL.Path, body); err != nil {
					t.Error(err)
				}
				if r.Method == http.MethodGet {
					fmt.Fprint(w, `{"app_name":"Firecracker","id":"x","state":"Running","vmm_version":"1.15.1"}`)
					return
				}
				w.WriteHeader(http.StatusNoContent)
			})
			if err := call(t.Context(), c); err != nil {
				t.Error(err)
			}
			if want, _, _ := strings.Cut(name, " ("); route != want {
				t.Errorf("asked %q, want %q", route, want)
			}
		})
	}
}

// The check itself refuses what Firecracker refuses.
func TestTheCheckIsStrict(t *testing.T) {
	doc := description(t)
	for name, c := range map[string]struct{ method, path, body string }{
		"unknown field":    {"PUT", "/vsock", `{"guest_cid":3,"uds_path":"v","cid":3}`},
		"unknown nested":   {"PUT", "/snapshot/load", `{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m","x":1}}`},
		"missing field":    {"PUT", "/vsock", `{"guest_cid":3}`},
		"wrong type":       {"PUT", "/machine-config", `{"vcpu_count":"2","mem_size_mib":128}`},
		"out of range":     {"PUT", "/machine-config", `{"vcpu_count":33,"mem_size_mib":128}`},
		"not of the enum":  {"PATCH", "/vm", `{"state":"Stopped"}`},
		"unknown path":     {"PUT", "/vms", `{}`},
		"unknown method":   {"PATCH", "/vsock", `{"guest_cid":3,"uds_path":"v"}`},
		"body where none":  {"GET", "/", `{}`},
		"no JSON":          {"PUT", "/vsock", `{`},
		"path without id":  {"PUT", "/drives/", `{"drive_id":"a","is_root_device":false}`},
		"low context id":   {"PUT", "/vsock", `{"guest_cid":2,"uds_path":"v"}`},
		"a null for words": {"PUT", "/actions", `{"action_type":null}`},
	} {
		if err := doc.Check(c.method, c.path, []byte(c.body)); err == nil {
			t.Errorf("%s: %s %s %s: %v", name, c.method, c.path, c.body, err)
		}
	}
}

// Errors say what was asked and Firecracker's words, and no answer is taken without bounds.
func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		kind   mvm.Kind
		words  string
	}{
		"fault": {func(w http.ResponseWriter) {
			w.WriteHeader(400)
			fmt.Fprint(w, `{"fault_message":"The requested operation is not supported\nafter starting the microVM."}`)
		}, mvm.KindInvalid, "ask Firecracker GET /: The requested operation is not supported after starting the microVM."},
		"no JSON":      {func(w http.ResponseWriter) { w.WriteHeader(500); fmt.Fprint(w, "oops") }, mvm.KindInvalid, "oops"},
		"nothing":      {func(w http.ResponseWriter) { w.WriteHeader(400) }, mvm.KindInvalid, "status 400"},
		"long fault":   {func(w http.ResponseWriter) { w.WriteHeader(400); fmt.Fprint(w, strings.Repeat("x", 10_000)) }, mvm.KindInvalid, "xxx…"},
		"endless":      {func(w http.ResponseWriter) { fmt.Fprint(w, strings.Repeat("x", 1<<20)) }, mvm.KindUnavailable, "more than"},
		"not an Info":  {func(w http.ResponseWriter) { fmt.Fprint(w, "[]") }, mvm.KindUnavailable, "read the answer"},
		"a redirect":   {func(w http.ResponseWriter) { w.Header().Set("Location", "http://10.0.0.1/"); w.WriteHeader(302) }, mvm.KindInvalid, "status 302"},
		"huge headers": {func(w http.ResponseWriter) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, mvm.KindUnavailable, "GET /"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serve(t, func(w http.ResponseWriter, _ *http.Request) { c.answer(w) }).Describe(t.Context())
			if !mvm.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.words) || len(err.Error()) > 600 {
				t.Errorf("error %v of kind %q, want kind %q and %q", err, mvm.KindOf(err), c.kind, c.words)
			}
		})
	}
}

// A VMM that takes a request and never answers holds nobody up beyond the context.
func TestSilentVMM(t *testing.T) {
	release := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := c.SetState(ctx, api.Paused)
	if !mvm.IsKind(err, mvm.KindUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want unavailable for its deadline", err)
	}
}
