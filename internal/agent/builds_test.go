package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/build"
	"mvm/internal/image"
)

// by is the context of a test as one of another asker.
func by(t *testing.T, asker string) context.Context {
	return mvm.WithAsker(ctx(t), mvm.ParseAsker(asker))
}

// buildHost is a host with tenant acme and pools of workers; builds wait until they are let go.
type buildHost struct {
	*host
	began chan image.Plan
	goOn  chan error // a value ends one build
}

func newBuildHost(t *testing.T, pools ...string) *buildHost {
	h := &buildHost{host: newHost(t), began: make(chan image.Plan, 64), goOn: make(chan error)}
	h.hold()
	h.start()
	h.tenant("acme", pools...)
	return h
}

// hold has builds wait until they are let go, or told to end.
func (h *buildHost) hold() {
	h.img.Before(func(ctx context.Context, plan image.Plan, progress func(mvm.Progress)) error {
		progress(mvm.Progress{Target: plan.Request.Ref, Text: "holding"})
		h.began <- plan
		select {
		case err := <-h.goOn:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func (h *buildHost) tenant(id string, pools ...string) {
	h.t.Helper()
	if _, err := h.a.CreateTenant(ctx(h.t), mvm.TenantSpec{ID: id}); err != nil {
		h.t.Fatal(err)
	}
	for _, p := range pools {
		if _, err := h.a.CreatePool(ctx(h.t), id, worker(p)); err != nil {
			h.t.Fatal(err)
		}
	}
}

// begin begins a build and waits until it builds.
func (h *buildHost) begin(tenant, pool string) build.Run {
	h.t.Helper()
	r, err := h.a.StartBuild(ctx(h.t), tenant, pool)
	if err != nil {
		h.t.Fatal(err)
	}
	<-h.began
	return r
}

func (h *buildHost) run(id string) build.Run {
	h.t.Helper()
	r, err := h.a.BuildRun(ctx(h.t), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// ended waits until the build has ended.
func (h *buildHost) ended(id string) build.Run {
	h.t.Helper()
	waitUntil(h.t, func() bool { return h.run(id).State.Ended() })
	if err := h.a.BuildLogs(ctx(h.t), id, mvm.LogsSpec{Follow: true}, func(mvm.LogLine) error { return nil }); err != nil {
		h.t.Fatal(err)
	}
	return h.run(id)
}

func (h *buildHost) logOf(id string) string {
	h.t.Helper()
	var all []string
	if err := h.a.BuildLogs(ctx(h.t), id, mvm.LogsSpec{}, func(l mvm.LogLine) error { all = append(all, l.Text); return nil }); err != nil {
		h.t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// eventsOf are the events with one of the actions: action, pool, who, detail.
func (h *buildHost) eventsOf(actions ...mvm.Action) (out []string) {
	h.t.Helper()
	err := h.a.Events(ctx(h.t), mvm.EventFilter{Actions: actions}, func(e mvm.Event) error {
		out = append(out, fmt.Sprintf("%s %s/%s by %s: %s", e.Action, e.Tenant, e.Pool, e.By, e.Detail))
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// TestBuildOfSeveralIsOne: pools that need the same image wait for one build, and each gets it.
func TestBuildOfSeveralIsOne(t *testing.T) {
	h := newBuildHost(t, "a", "b")
	first := h.begin("acme", "a")
	second, err := h.a.StartBuild(by(t, "cli:bob"), "acme", "b")
	if err != nil || second.ID != first.ID || !slices.Equal(second.Pools, []string{"a", "b"}) {
		t.Fatalf("the second asker got %+v, %v; want build %s for both pools", second, err, first.ID)
	}
	type outcome struct {
		b   mvm.Build
		err error
	}
	got, said := make(chan outcome, 2), make(chan string, 64)
	for _, pool := range []string{"a", "b"} {
		go func() {
			b, err := h.a.BuildPool(ctx(t), "acme", pool, func(p mvm.Progress) { said <- p.Target + ": " + p.Text })
			got <- outcome{b, err}
		}()
	}
	for range 2 {
		if text := <-said; !strings.Contains(text, "waiting for build "+first.ID+" of builtin:minimal") {
			for text != "" && !strings.Contains(text, "waiting for build") { // of the other one, what it said
				text = <-said
			}
		}
	}
	for _, pool := range []string{"a", "b"} {
		if p, err := h.a.Pool(ctx(t), "acme", pool); err != nil || p.Building != first.ID {
			t.Errorf("pool %s waits for %q, %v; want %s", pool, p.Building, err, first.ID)
		}
	}
	if all, err := h.a.Builds(ctx(t), "acme"); err != nil || len(all) != 1 || all[0].State != build.Building || all[0].Began.IsZero() || all[0].Step != "holding" {
		t.Errorf("the list has %+v, %v; want one that builds", all, err)
	}
	h.goOn <- nil
	for range 2 {
		if o := <-got; o.err != nil || o.b.ID != first.ID {
			t.Errorf("a pool got %+v, %v; want build %s", o.b, o.err, first.ID)
		}
	}
	if r := h.ended(first.ID); r.State != build.Done || r.Image == "" || r.Ended.IsZero() || h.img.Built() != 1 {
		t.Errorf("ended as %+v after %d builds", r, h.img.Built())
	}
	want := []string{"BuildStarted acme/a by unknown:test: " + first.ID + " of builtin:minimal"}
	if got := h.eventsOf(mvm.BuildStarted, mvm.BuildFailed, mvm.BuildCanceled); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	if got := h.eventsOf(mvm.PoolBuilt); len(got) != 2 {
		t.Errorf("events %q, want one for each pool", got)
	}
	if p, err := h.a.Pool(ctx(t), "acme", "a"); err != nil || p.Building != "" || len(p.Builds) != 1 {
		t.Errorf("pool a is %+v, %v", p, err)
	}
}

// TestBuildGoesOnWithoutItsAsker: who asked leaves, and the pool gets its image, in their name.
func TestBuildGoesOnWithoutItsAsker(t *testing.T) {
	h := newBuildHost(t, "a")
	asks, leave := context.WithCancel(by(t, "cli:bob"))
	left := make(chan error, 1)
	go func() {
		_, err := h.a.BuildPool(asks, "acme", "a", nil)
		left <- err
	}()
	<-h.began
	leave()
	err := <-left
	all, lerr := h.a.Builds(ctx(t), "")
	if lerr != nil || len(all) != 1 || all[0].State != build.Building || all[0].By.String() != "cli:bob" {
		t.Fatalf("builds %+v, %v; want that of bob to go on", all, lerr)
	}
	if !mvm.IsKind(err, mvm.KindCanceled) || !strings.Contains(err.Error(), "mvm builds logs -f "+all[0].ID) {
		t.Errorf("who left was told %v", err)
	}
	h.goOn <- nil
	h.ended(all[0].ID)
	if got := h.eventsOf(mvm.PoolBuilt); len(got) != 1 || !strings.Contains(got[0], "by cli:bob") {
		t.Errorf("events %q, want that the pool was built by bob", got)
	}
}

// TestBuildCanceled: it ends, its pools keep what they have, who waits is told who did it, and the
// agent does not begin it again by itself, which a person may.
func TestBuildCanceled(t *testing.T) {
	h := newBuildHost(t, "a")
	waits := make(chan error, 1)
	go func() {
		_, err := h.a.BuildPool(ctx(t), "acme", "a", nil)
		waits <- err
	}()
	<-h.began
	all, _ := h.a.Builds(ctx(t), "acme")
	r, err := h.a.CancelBuild(by(t, "cli:eve"), all[0].ID)
	if err != nil || r.State != build.Canceled || r.Error != "cancelled by cli:eve" || r.Ended.IsZero() {
		t.Fatalf("cancelled as %+v, %v", r, err)
	}
	if err := <-waits; !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "build pool acme/a: build "+r.ID+": cancelled by cli:eve") {
		t.Errorf("who waits was told %v", err)
	}
	if _, err := h.a.CancelBuild(ctx(t), r.ID); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("cancelled twice: %v", err)
	}
	want := []string{"BuildCanceled acme/a by cli:eve: " + r.ID + " of builtin:minimal"}
	if got := h.eventsOf(mvm.BuildFailed, mvm.BuildCanceled); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	if text := h.logOf(r.ID); !strings.HasSuffix(text, "cancelled: cancelled by cli:eve") {
		t.Errorf("its log ends with %.200q", text)
	}
	if _, err := h.a.StartBuild(by(t, "reconcile"), "acme", "a"); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "mvm pool build acme/a") {
		t.Errorf("reconcile began it again: %v", err)
	}
	h.stop()
	h.start() // that is so after a restart, too
	if _, err := h.a.StartBuild(by(t, "reconcile"), "acme", "a"); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("reconcile of the next agent began it again: %v", err)
	}
	again := h.begin("acme", "a")
	h.goOn <- nil
	if got := h.ended(again.ID); got.State != build.Done {
		t.Errorf("a person's build ended as %+v", got)
	}
}

// TestBuildFails: the list, the log and the audit log say why; the same failure again of the
// agent's own tries is one entry.
func TestBuildFails(t *testing.T) {
	h := newBuildHost(t, "a")
	tries := 0
	h.img.Before(func(_ context.Context, _ image.Plan, progress func(mvm.Progress)) error {
		tries++
		progress(mvm.Progress{Text: "step \x1b[31m1\nsecond line"})
		return mvm.Errorf(mvm.KindUnavailable, "the mirror is away at try %d", tries).WithFix("wait for it")
	})
	_, err := h.a.BuildPool(by(t, "cli:bob"), "acme", "a", nil)
	all, _ := h.a.Builds(ctx(t), "acme")
	if len(all) != 1 {
		t.Fatalf("builds %+v", all)
	}
	r := all[0]
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.HasPrefix(err.Error(), "build pool acme/a: build "+r.ID+": build image builtin:minimal: the mirror is away at try 1") {
		t.Errorf("who waited was told %v", err)
	}
	if r.State != build.Failed || r.Error != "build image builtin:minimal: the mirror is away at try 1" || r.Fix != "wait for it" || r.Kind != mvm.KindUnavailable || r.Step != "second line" {
		t.Errorf("it ended as %+v", r)
	}
	if text := h.logOf(r.ID); !strings.Contains(text, "build of builtin:minimal for role worker, profile minimal, tenant acme\n") || !strings.Contains(text, `step \x1b[31m1`+"\n    second line\n") ||
		!strings.HasSuffix(text, "failed: build image builtin:minimal: the mirror is away at try 1") {
		t.Errorf("its log is %q", text)
	}
	for range 3 {
		if _, err := h.a.BuildPool(by(t, "reconcile"), "acme", "a", nil); err == nil {
			t.Fatal("it was built")
		}
	}
	all, _ = h.a.Builds(ctx(t), "acme")
	if len(all) != 2 || all[0].Tries != 2 || all[1].ID != r.ID {
		t.Errorf("after three tries of reconcile the list is %+v", all)
	}
	if got := h.eventsOf(mvm.BuildStarted, mvm.BuildFailed); len(got) != 4 || !strings.Contains(got[1], "BuildFailed acme/a by cli:bob: "+r.ID+" of builtin:minimal: build image builtin:minimal: the mirror is away at try 1") {
		t.Errorf("events %q, want two of bob's and two of reconcile's", got)
	}
	h.img.Before(nil)
	if _, err := h.a.BuildPool(by(t, "reconcile"), "acme", "a", nil); err != nil {
		t.Errorf("a failure keeps it from being built: %v", err)
	}
}

// TestBuildThatSaysMuch: its log is bounded, has the end, and nobody is held up.
func TestBuildThatSaysMuch(t *testing.T) {
	h := newHost(t)
	h.builds.LogBytes = 10_000
	b := &buildHost{host: h}
	h.start()
	b.tenant("acme", "a")
	h.img.Before(func(_ context.Context, _ image.Plan, progress func(mvm.Progress)) error {
		for n := range 5_000 {
			progress(mvm.Progress{Text: fmt.Sprintf("step %d %s", n, strings.Repeat("spam\n", 2000))})
		}
		return nil
	})
	built, err := h.a.BuildPool(ctx(t), "acme", "a", func(mvm.Progress) { time.Sleep(time.Millisecond) })
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(h.dir, "builds", built.ID+".log"))
	if err != nil || len(text) > 2*h.builds.LogBytes || !strings.Contains(string(text), "left out") || !strings.HasSuffix(string(text), "done: "+built.Digest+"\n") {
		t.Errorf("the log has %d bytes and ends with %q, %v", len(text), text[max(0, len(text)-100):], err)
	}
}

// TestBuildEndsAtItsDeadline, with nobody there.
func TestBuildEndsAtItsDeadline(t *testing.T) {
	h := &buildHost{host: newHost(t), began: make(chan image.Plan, 1), goOn: make(chan error)}
	h.images = image.DefaultLimits()
	h.images.Build = 50 * time.Millisecond
	h.hold()
	h.start()
	h.tenant("acme", "a")
	r := h.begin("acme", "a")
	if got := h.ended(r.ID); got.State != build.Failed || !strings.Contains(got.Error, "it was stopped after 50ms") || got.Kind != mvm.KindUnavailable {
		t.Errorf("it ended as %+v", got)
	}
}

// TestBuildsOverRestart: those that had ended are as they were, and one that was cut off says so
// and what to do.
func TestBuildsOverRestart(t *testing.T) {
	h := newBuildHost(t, "a", "b")
	first := h.begin("acme", "a")
	h.goOn <- nil
	done := h.ended(first.ID)
	waits := make(chan error, 1)
	h.change("b", func(s *mvm.PoolSpec) { s.Flake = "builtin:other" })
	go func() {
		_, err := h.a.BuildPool(ctx(t), "acme", "b", nil)
		waits <- err
	}()
	<-h.began
	all, _ := h.a.Builds(ctx(t), "acme")
	cut := all[0]
	h.stop()
	if err := <-waits; !errors.Is(err, mvm.ErrAway) {
		t.Errorf("who waited was told %v, want that the agent goes away", err)
	}
	h.start()
	if got := h.run(done.ID); fmt.Sprint(got) != fmt.Sprint(h.onDisk(done)) {
		t.Errorf("the one that had ended is %+v, was %+v", got, done)
	}
	got := h.run(cut.ID)
	if got.State != build.Failed || !strings.Contains(got.Error, "the agent was stopped") || !strings.Contains(got.Fix, "mvm pool build acme/b") || got.Ended.IsZero() || got.Kind != mvm.KindUnavailable {
		t.Errorf("the one that was cut off is %+v", got)
	}
	if text := h.logOf(cut.ID); !strings.Contains(text, "holding") || !strings.Contains(text, "\nfailed: it was interrupted: the agent was stopped") {
		t.Errorf("its log is %q", text)
	}
	if got := h.eventsOf(mvm.BuildFailed); len(got) != 1 || !strings.Contains(got[0], cut.ID) {
		t.Errorf("events %q, want that it failed", got)
	}
	h.stop()
	h.start()
	if got := h.eventsOf(mvm.BuildFailed); len(got) != 1 {
		t.Errorf("after one more restart: events %q", got)
	}
	if p, err := h.a.Pool(ctx(t), "acme", "b"); err != nil || p.Building != "" {
		t.Errorf("pool b waits for %q, %v", p.Building, err)
	}
}

// onDisk is a build as it is after a restart: its times have no monotonic clock and no zone.
func (h *buildHost) onDisk(r build.Run) build.Run {
	r.Created, r.Began, r.Ended = r.Created.Round(0), r.Began.Round(0), r.Ended.Round(0)
	return r
}

// TestBuildsThatAreKept: the last ones of each tenant. One tenant's do not push out another's.
func TestBuildsThatAreKept(t *testing.T) {
	h := &buildHost{host: newHost(t)}
	h.builds.Kept, h.builds.KeptAll = 3, 4
	h.start()
	h.tenant("acme", "a")
	h.tenant("beta", "a")
	ids := map[string][]string{}
	for _, tenant := range []string{"beta", "acme", "acme", "acme", "acme", "acme"} {
		r, err := h.a.StartBuild(ctx(t), tenant, "a")
		if err != nil {
			t.Fatal(err)
		}
		h.ended(r.ID)
		ids[tenant] = append(ids[tenant], r.ID)
	}
	waitUntil(t, func() bool {
		all, err := h.a.Builds(ctx(t), "acme")
		return err == nil && len(all) == 3 && all[0].ID == ids["acme"][4] && all[2].ID == ids["acme"][2]
	})
	if all, _ := h.a.Builds(ctx(t), "beta"); len(all) != 1 || all[0].ID != ids["beta"][0] {
		t.Errorf("of beta %+v is kept", all)
	}
	if files, _ := filepath.Glob(filepath.Join(h.dir, "builds", "*")); len(files) != 8 {
		t.Errorf("files %q, want two of each build that is kept", files)
	}
	if _, err := h.a.BuildRun(ctx(t), ids["acme"][0]); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("one that is not kept: %v", err)
	}
	if err := h.a.BuildLogs(ctx(t), ids["acme"][0], mvm.LogsSpec{}, func(mvm.LogLine) error { return nil }); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("its log: %v", err)
	}
}

// TestBuildLimits: a tenant has so many builds at a time, and others are not kept waiting by them.
func TestBuildLimits(t *testing.T) {
	h := &buildHost{host: newHost(t), began: make(chan image.Plan, 64), goOn: make(chan error)}
	h.builds.PerTenant, h.builds.Pending = 1, 2
	h.hold()
	h.start()
	h.tenant("acme", "a", "b", "c")
	h.tenant("beta", "a")
	for _, pool := range []string{"b", "c"} {
		h.change(pool, func(s *mvm.PoolSpec) { s.Flake = "builtin:" + pool })
	}
	first := h.begin("acme", "a")
	second, err := h.a.StartBuild(ctx(t), "acme", "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.a.StartBuild(ctx(t), "acme", "c"); !mvm.IsKind(err, mvm.KindQuota) || !strings.Contains(err.Error(), "mvm builds acme") {
		t.Errorf("a third build: %v, want it refused", err)
	}
	waitUntil(t, func() bool {
		r := h.run(second.ID)
		return r.State == build.Queued && r.Step == "waiting for other builds to end"
	})
	h.change2("beta", "a", "builtin:beta")
	other := h.begin("beta", "a")
	if r := h.run(other.ID); r.State != build.Building {
		t.Errorf("a build of beta is %s", r.State)
	}
	if got := h.metrics.counted("builds 1 2"); got == 0 {
		t.Errorf("nobody counted one that waits and two that run")
	}
	h.goOn <- nil
	h.goOn <- nil
	<-h.began
	h.goOn <- nil
	for _, id := range []string{first.ID, second.ID, other.ID} {
		if r := h.ended(id); r.State != build.Done {
			t.Errorf("%+v", r)
		}
	}
	if got := h.metrics.counted("build done"); got != 3 {
		t.Errorf("%d builds were counted at their end, want 3", got)
	}
}

func (h *buildHost) change2(tenant, pool, flake string) {
	h.t.Helper()
	p, err := h.a.Pool(ctx(h.t), tenant, pool)
	if err == nil {
		p.Spec.Flake = flake
		_, err = h.a.UpdatePool(ctx(h.t), tenant, pool, mvm.PoolUpdate{Spec: &p.Spec})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (c *counter) counted(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[what]
}

// TestBuildFollowers: one who reads slowly and one who leaves hold up neither the build nor others,
// and who follows to the end has all of it once.
func TestBuildFollowers(t *testing.T) {
	h := newBuildHost(t, "a")
	r := h.begin("acme", "a")
	slow, reads := make(chan struct{}), make(chan struct{})
	slowEnded, goneEnded, allEnded := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	leaving, leave := context.WithCancel(ctx(t))
	follow := mvm.LogsSpec{Follow: true}
	go func() {
		slowEnded <- h.a.BuildLogs(ctx(t), r.ID, follow, func(mvm.LogLine) error {
			select {
			case reads <- struct{}{}:
			default:
			}
			<-slow
			return nil
		})
	}()
	go func() {
		goneEnded <- h.a.BuildLogs(leaving, r.ID, follow, func(mvm.LogLine) error { return nil })
	}()
	var all []string
	go func() {
		allEnded <- h.a.BuildLogs(ctx(t), r.ID, follow, func(l mvm.LogLine) error { all = append(all, l.Text); return nil })
	}()
	leave()
	if err := <-goneEnded; !mvm.IsKind(err, mvm.KindCanceled) {
		t.Errorf("who left: %v", err)
	}
	h.goOn <- nil
	if err := <-allEnded; err != nil {
		t.Errorf("who followed: %v", err)
	}
	if r := h.run(r.ID); r.State != build.Done {
		t.Errorf("a slow reader holds the build up: it is %s", r.State)
	}
	if got := strings.Join(all, "\n"); got != h.logOf(r.ID) || !strings.HasSuffix(got, "done: "+h.run(r.ID).Image) {
		t.Errorf("who followed has %q, the log is %q", got, h.logOf(r.ID))
	}
	close(slow)
	if err := <-slowEnded; err != nil {
		t.Errorf("who was slow: %v", err)
	}
	var last []string
	if err := h.a.BuildLogs(ctx(t), r.ID, mvm.LogsSpec{Tail: 1}, func(l mvm.LogLine) error { last = append(last, l.Text); return nil }); err != nil || len(last) != 1 || last[0] != all[len(all)-1] {
		t.Errorf("the last line is %q, %v", last, err)
	}
}

// TestBuildsOfWhatIsDestroyed: builds that nobody needs any more end, and those of a tenant that is
// gone are forgotten.
func TestBuildsOfWhatIsDestroyed(t *testing.T) {
	h := newBuildHost(t, "a", "b")
	first := h.begin("acme", "a")
	if _, err := h.a.StartBuild(ctx(t), "acme", "b"); err != nil {
		t.Fatal(err)
	}
	if err := h.a.DestroyPool(ctx(t), "acme", "a", nil); err != nil {
		t.Fatal(err)
	}
	if r := h.run(first.ID); r.State != build.Building {
		t.Errorf("pool b waits for it, and it is %+v", r)
	}
	if err := h.a.DestroyPool(ctx(t), "acme", "b", nil); err != nil {
		t.Fatal(err)
	}
	if r := h.ended(first.ID); r.State != build.Canceled || !strings.Contains(r.Error, "acme/b is destroyed") {
		t.Errorf("nobody waits for it, and it is %+v", r)
	}
	if _, err := h.a.CreatePool(ctx(t), "acme", worker("c")); err != nil {
		t.Fatal(err)
	}
	h.begin("acme", "c")
	if err := h.a.DestroyTenant(ctx(t), "acme", nil); err != nil {
		t.Fatal(err)
	}
	if all, err := h.a.Builds(ctx(t), ""); err != nil || len(all) != 0 {
		t.Errorf("builds of a tenant that is gone: %+v, %v", all, err)
	}
	if files, _ := filepath.Glob(filepath.Join(h.dir, "builds", "*")); len(files) != 0 {
		t.Errorf("left behind: %q", files)
	}
}

// TestDamagedBuildRecords: a record that can't be read, and files of no build, keep no agent from
// starting.
func TestDamagedBuildRecords(t *testing.T) {
	h := newBuildHost(t, "a")
	r := h.begin("acme", "a")
	h.goOn <- nil
	h.ended(r.ID)
	h.stop()
	dir := filepath.Join(h.dir, "builds")
	for name, text := range map[string]string{"b-00000001.json": "{", "b-00000002.log": "x", "b-00000003.json": `{"version":9,"id":"b-00000003","tenant":"acme"}`,
		"b-00000004.json": `{"version":1,"id":"b-00000004","tenant":"nobody","state":"done"}`, "b-00000004.log": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	if all, err := h.a.Builds(ctx(t), ""); err != nil || len(all) != 1 || all[0].ID != r.ID {
		t.Errorf("builds %+v, %v", all, err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 2 {
		t.Errorf("files %q", files)
	}
}
