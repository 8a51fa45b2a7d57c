package image_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/image"
)

func openWith(t *testing.T, dir string, l image.Limits, b image.Builder) *image.DirStore {
	t.Helper()
	s, err := image.OpenWith(dir, []image.Builder{b}, l, slog.New(slog.NewTextHandler(io.Discard, nil)))
	must(t, err)
	return s
}

// TestBuildThatHangs: it ends at its deadline with the reason, leaves nothing, and the next
// build of the same reference works.
func TestBuildThatHangs(t *testing.T) {
	dir, l := t.TempDir(), image.DefaultLimits()
	l.Build = 50 * time.Millisecond
	b := &toy{before: func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	_, err := openWith(t, dir, l, b).Build(t.Context(), image.Request{Ref: "toy:a"}, nil)
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "stopped after 50ms") {
		t.Errorf("got %v, want the build stopped at its deadline", err)
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("the build left %v", left)
	}
	b.before = nil
	build(t, open(t, dir, b), "toy:a")
}

// silent never finds out what a reference names.
type silent struct{ toy }

func (*silent) Resolve(ctx context.Context, _ image.Request, _ func(mvm.Progress)) (image.Plan, error) {
	<-ctx.Done()
	return image.Plan{}, ctx.Err()
}

// TestLookUpThatHangs: it ends too.
func TestLookUpThatHangs(t *testing.T) {
	l := image.DefaultLimits()
	l.Resolve = 50 * time.Millisecond
	_, err := openWith(t, t.TempDir(), l, &silent{}).Build(t.Context(), image.Request{Ref: "toy:a"}, nil)
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "look up image toy:a: it was stopped after 50ms") {
		t.Errorf("got %v, want the look-up stopped", err)
	}
}

// TestBuildLimits: a tenant with many builds has so many at a time, and others go on meanwhile.
func TestBuildLimits(t *testing.T) {
	l := image.DefaultLimits()
	l.Parallel, l.PerTenant = 2, 1
	var mu sync.Mutex
	running, most := map[string]int{}, map[string]int{}
	began, goOn := make(chan string, 8), make(chan struct{})
	count := func(by int, names ...string) {
		mu.Lock()
		defer mu.Unlock()
		for _, n := range names {
			running[n] += by
			most[n] = max(most[n], running[n])
		}
	}
	b := &counting{toy: &toy{}, before: func(tenant string) {
		count(1, tenant, "all")
		began <- tenant
		<-goOn
		count(-1, tenant, "all")
	}}
	s := openWith(t, t.TempDir(), l, b)
	var wg sync.WaitGroup
	waits := make(chan string, 8)
	start := func(ref, tenant string) {
		wg.Go(func() {
			if _, err := s.Build(context.WithoutCancel(t.Context()), image.Request{Ref: ref, Tenant: tenant}, func(p mvm.Progress) {
				if strings.HasPrefix(p.Text, "waiting") {
					waits <- tenant
				}
			}); err != nil {
				t.Error(err)
			}
		})
	}
	for n := range 3 {
		start(fmt.Sprintf("toy:%d", n), "acme")
	}
	for one, waiting := 0, 0; one+waiting < 3; {
		select {
		case <-began:
			one++
		case <-waits:
			waiting++
		}
		if one > 1 {
			t.Error("two builds of one tenant run at a time")
			break
		}
	}
	start("toy:beta", "beta")
	select {
	case tenant := <-began:
		if tenant != "beta" {
			t.Errorf("a build of %s began next, want one of beta", tenant)
		}
	case <-waits:
		t.Error("builds of acme keep one of beta waiting")
	}
	close(goOn)
	wg.Wait()
	if most["acme"] != 1 || most["all"] != 2 {
		t.Errorf("at most %d builds of acme and %d in all, want 1 and 2", most["acme"], most["all"])
	}
}

// counting tells of whom a build is.
type counting struct {
	*toy
	before func(tenant string)
}

func (b *counting) Build(ctx context.Context, plan image.Plan, dir string, progress func(mvm.Progress)) error {
	b.before(plan.Request.Tenant)
	return b.toy.Build(ctx, plan, dir, progress)
}

// spammer says much.
type spammer struct{ toy }

func (b *spammer) Build(ctx context.Context, plan image.Plan, dir string, progress func(mvm.Progress)) error {
	for n := range 10_000 {
		progress(mvm.Progress{Text: fmt.Sprintf("step %d %s", n, strings.Repeat("spam\n", 2000))})
	}
	return b.toy.Build(ctx, plan, dir, progress)
}

// TestBuildLogs: what a build says is kept within bounds, with its end, and of many builds the
// last ones.
func TestBuildLogs(t *testing.T) {
	dir, l := t.TempDir(), image.DefaultLimits()
	l.Logs, l.LogBytes = 3, 10_000
	b := &spammer{}
	s := openWith(t, dir, l, b)
	img := build(t, s, "toy:a")
	from, err := img.Provenance()
	must(t, err)
	if err := mvm.ValidateBuildID(from.Build); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(from.Log)
	must(t, err)
	if len(text) > 3*l.LogBytes || !strings.Contains(string(text), "build of toy:a") || !strings.Contains(string(text), "left out") ||
		!strings.HasSuffix(string(text), "done: "+img.Digest+"\n") {
		t.Errorf("the log of %d bytes ends with %q", len(text), text[max(0, len(text)-200):])
	}
	broken := errors.New("it broke")
	b.toy.before = func(context.Context, string) error { return broken }
	for n := range 5 {
		if _, err := s.Build(t.Context(), image.Request{Ref: fmt.Sprintf("toy:%d", n)}, nil); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}
	logs, err := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	if err != nil || len(logs) != l.Logs {
		t.Errorf("%d logs are kept, %v; want %d", len(logs), err, l.Logs)
	}
	for _, name := range logs {
		if text, err := os.ReadFile(name); err != nil || !strings.Contains(string(text), "failed: build image toy:") {
			t.Errorf("the log of a build that failed says %.200q, %v", text, err)
		}
	}
}
