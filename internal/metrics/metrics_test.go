package metrics_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/metrics"
)

var update = flag.Bool("update", false, "write the table of docs/observability.md anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// busy returns figures in which each has been counted.
func busy() *metrics.Metrics {
	m := metrics.New(metrics.Sources{
		Fleet: func() []mvm.FleetCount {
			return []mvm.FleetCount{
				{Tenant: "acme", Pool: "workers", State: mvm.StateSleeping, Instances: 3, SnapshotBytes: 100},
				{Tenant: "acme", Pool: "others", State: mvm.StateSleeping, Instances: 1, SnapshotBytes: 11},
				{Tenant: "acme", Pool: "workers", State: mvm.StateRunning, Instances: 2, SnapshotBytes: 7},
			}
		},
		Audited: func() uint64 { return 41 },
	})
	m.Operation(mvm.Transition{Op: mvm.OpWake, From: mvm.StateSleeping, To: mvm.StateRunning, Kind: "warm", Took: 30 * time.Millisecond,
		Stages: []mvm.Stage{{Name: "restore", Took: 20 * time.Millisecond}}}, nil)
	m.Operation(mvm.Transition{Op: mvm.OpWake, From: mvm.StateSleeping, To: mvm.StateRunning, Kind: "cold", Took: 3 * time.Second}, nil)
	m.Operation(mvm.Transition{Op: mvm.OpWake, From: mvm.StateRunning, To: mvm.StateRunning}, nil) // a request, and no wake
	m.Operation(mvm.Transition{Op: mvm.OpWake, From: mvm.StateRunning, To: mvm.StateRunning, Stages: []mvm.Stage{{Name: "ready"}}}, nil)
	m.Operation(mvm.Transition{Op: mvm.OpWake, From: mvm.StateSleeping, To: mvm.StateSleeping, Kind: "warm"}, mvm.Errorf(mvm.KindQuota, "no room for i-00000001"))
	m.Operation(mvm.Transition{Op: mvm.OpSleep, From: mvm.StateRunning, To: mvm.StateSleeping, Took: time.Second}, nil)
	m.Operation(mvm.Transition{Op: mvm.OpWarm, From: mvm.StateRunning, To: mvm.StateWarm, Took: time.Millisecond}, nil)
	m.Deferred(mvm.OpSleep, "min_running")
	m.Builds(2, 1)
	m.BuildEnded("done")
	m.Timer("ok")
	m.Asked("answered")
	m.HostBound("Acquire", "ok")
	m.Messages(mvm.ChannelSlack, "accepted", 3)
	m.Backlog("acme", "gateways", 7)
	m.Backlog("other", "gateways", 7)
	m.Backlog("other", "gateways", 0) // of which no line is left
	m.Remote(func() metrics.Remote {
		return metrics.Remote{Connections: 2, Refused: map[string]uint64{"rate": 5}, CertificateUntil: 1_800_000_000}
	})
	m.Request("GET /v1/tenants", "ok", time.Millisecond)
	m.Reconciled(time.Second, nil)
	m.Reconciled(time.Second, errors.New("no"))
	return m
}

const testToken = "0123456789abcdef"

// get asks with an Authorization header.
func get(t *testing.T, url, auth string) *http.Response {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// scrape reads the figures as Prometheus does.
func scrape(t *testing.T, m *metrics.Metrics) (string, map[string]*dto.MetricFamily) {
	t.Helper()
	s, err := m.Serve("127.0.0.1:0", testToken, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	resp := get(t, "http://"+s.Addr().String()+"/metrics", "Bearer "+testToken)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d, %v: %s", resp.StatusCode, err, b)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	all, err := p.TextToMetricFamilies(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b), all
}

func TestScrapeHasWhatWasCounted(t *testing.T) {
	text, _ := scrape(t, busy())
	for _, want := range []string{
		`mvm_instances{pool="workers",state="sleeping",tenant="acme"} 3`,
		`mvm_instances{pool="workers",state="running",tenant="acme"} 2`,
		`mvm_sleeping_bytes{tenant="acme"} 111`,
		`mvm_operations_total{op="wake",result="ok"} 2`,
		`mvm_operations_total{op="wake",result="quota"} 1`,
		`mvm_wake_duration_seconds_count{kind="warm",stage="total"} 1`,
		`mvm_wake_duration_seconds_bucket{kind="warm",stage="total",le="0.05"} 1`,
		`mvm_wake_duration_seconds_bucket{kind="warm",stage="total",le="0.025"} 0`,
		`mvm_wake_duration_seconds_count{kind="warm",stage="restore"} 1`,
		`mvm_wake_duration_seconds_sum{kind="cold",stage="total"} 3`,
		`mvm_sleep_duration_seconds_count{kind="cold",stage="total"} 1`,
		`mvm_sleep_duration_seconds_count{kind="warm",stage="total"} 1`,
		`mvm_builds{state="queued"} 2`, `mvm_builds{state="running"} 1`, `mvm_builds_total{result="done"} 1`,
		`mvm_deferred_transitions_total{op="sleep",reason="min_running"} 1`,
		`mvm_host_bound_requests_total{request="Acquire",result="ok"} 1`,
		`mvm_messages_total{kind="slack",result="accepted"} 3`,
		`mvm_messages_waiting{pool="gateways",tenant="acme"} 7`,
		`mvm_api_requests_total{result="ok",route="GET /v1/tenants"} 1`,
		`mvm_reconcile_runs_total 2`, `mvm_reconcile_errors_total 1`, `mvm_reconcile_duration_seconds_count 2`,
		`mvm_audit_last_seq 41`,
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("the scrape does not have %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestNamesAreThoseThatPrometheusExpects(t *testing.T) {
	text, all := scrape(t, busy())
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for name := range all {
		if !strings.HasPrefix(name, "mvm_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "promhttp_") {
			t.Errorf("%s has none of the prefixes", name)
		}
	}
}

// However many different words come, a label says a bounded number of them.
func TestLabelsAreBounded(t *testing.T) {
	m := busy()
	for n := range 10_000 {
		w := fmt.Sprintf("word-%d", n)
		m.Deferred(mvm.OpKind(w), w)
		m.HostBound(w, "ok")
		m.Request(w, "ok", time.Millisecond)
		m.Operation(mvm.Transition{Op: mvm.OpWake, From: "a", To: "b", Kind: "warm", Stages: []mvm.Stage{{Name: w}}}, nil)
	}
	_, all := scrape(t, m)
	for name, f := range all {
		if n := len(f.GetMetric()); n > 300 {
			t.Errorf("%s has %d series", name, n)
		}
	}
}

func TestNothingButMetricsIsServed(t *testing.T) {
	s, err := busy().Serve("127.0.0.1:0", testToken, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for auth, want := range map[string]int{"": 401, "Bearer ": 401, "Bearer": 401, testToken: 401, "Bearer " + testToken + "x": 401, "Basic " + testToken: 401, "Bearer " + testToken: 200} {
		resp := get(t, "http://"+s.Addr().String()+"/metrics", auth)
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || want == 401 && strings.Contains(string(b), "mvm_") {
			t.Errorf("authorization %q: got status %d, want %d", auth, resp.StatusCode, want)
		}
	}
	for path, want := range map[string]int{"/": 404, "/v1/tenants": 404, "/debug/pprof/": 404} {
		resp, err := c.Get("http://" + s.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got status %d, want %d", path, resp.StatusCode, want)
		}
	}
	resp, err := c.Post("http://"+s.Addr().String()+"/metrics", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: got status %d", resp.StatusCode)
	}
}

func TestAddressThatIsTaken(t *testing.T) {
	s, err := busy().Serve("127.0.0.1:0", testToken, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = busy().Serve(s.Addr().String(), testToken, slog.New(slog.DiscardHandler))
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "metrics_listen") {
		t.Errorf("got %v, want it to say what to change", err)
	}
}

const tableBegin, tableEnd = "<!-- metrics: made by go test ./internal/metrics -run Docs -update -->\n", "<!-- end -->\n"

// The table of the documentation is what is served.
func TestDocsTable(t *testing.T) {
	_, all := scrape(t, busy())
	var rows []string
	for name, f := range all {
		if strings.HasPrefix(name, "mvm_") {
			var labels []string
			for _, l := range f.GetMetric()[0].GetLabel() {
				labels = append(labels, l.GetName())
			}
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp()))
		}
	}
	slices.Sort(rows)
	want := tableBegin + "| metric | type | labels | |\n|---|---|---|---|\n" + strings.Join(rows, "") + tableEnd
	path := filepath.Join("..", "..", "docs", "observability.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), tableBegin)
	_, tail, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+want+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(b) != head+want+tail {
		t.Errorf("the table is not up to date: run go test ./internal/metrics -run Docs -update")
	}
}

// BenchmarkScrape is what a scrape costs on a host with 100 tenants of three pools,
// however many instances they have.
func BenchmarkScrape(b *testing.B) {
	var fleet []mvm.FleetCount
	for n := range 100 {
		for _, pool := range []string{"gateways", "workers", "others"} {
			for _, st := range []mvm.State{mvm.StateRunning, mvm.StateSleeping} {
				fleet = append(fleet, mvm.FleetCount{Tenant: fmt.Sprintf("t%d", n), Pool: pool, State: st, Instances: 100})
			}
		}
	}
	h := metrics.New(metrics.Sources{Fleet: func() []mvm.FleetCount { return fleet }}).Handler(slog.New(slog.DiscardHandler))
	r, err := http.NewRequest("GET", "/metrics", nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		h.ServeHTTP(discard{http.Header{}}, r)
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
