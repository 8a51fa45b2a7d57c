// Package imagetest is the suite that every builder of images passes.
package imagetest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"mvm"
	"mvm/internal/image"
)

// Suite is a builder, and references for it.
type Suite struct {
	Builder image.Builder
	// Ref names an image that is there, and Wrong are references that no build can take.
	Ref   string
	Wrong []string
	// Change has the reference name another image from now on; nil: it can't.
	Change func(t *testing.T)
	// Slow: a build takes seconds, and tests of the builder's own stop one.
	Slow bool
}

// Run checks the promises of image.Builder.
func Run(t *testing.T, s Suite) {
	t.Run("references", s.references)
	t.Run("resolve", s.resolve)
	t.Run("build", s.build)
	t.Run("plan of another", s.foreign)
	if !s.Slow {
		t.Run("cancel", s.cancel)
	}
	if s.Change != nil {
		t.Run("change", s.change)
	}
}

func nothing(mvm.Progress) {}

func (s Suite) references(t *testing.T) {
	scheme := s.Builder.Scheme()
	if b, err := image.BuilderOf([]image.Builder{s.Builder}, s.Ref); err != nil || b.Scheme() != scheme {
		t.Errorf("reference %s does not begin with %s: %v", s.Ref, scheme, err)
	}
	if err := s.Builder.Check(s.Ref); err != nil {
		t.Errorf("reference %s is refused: %v", s.Ref, err)
	}
	for _, ref := range s.Wrong {
		if err := s.Builder.Check(ref); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("check of %s: %v, want it refused as invalid", ref, err)
		}
	}
}

func (s Suite) plan(t *testing.T) image.Plan {
	t.Helper()
	p, err := s.Builder.Resolve(t.Context(), image.Request{Ref: s.Ref, Arch: image.Arch, Role: mvm.RoleWorker, Profile: "minimal"}, nothing)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// resolve: twice the same, and complete.
func (s Suite) resolve(t *testing.T) {
	first, again := s.plan(t), s.plan(t)
	if first.Key == "" || first.Key != again.Key || first.Resolved == "" || first.Resolved != again.Resolved {
		t.Errorf("resolved to %q with key %q, then to %q with key %q", first.Resolved, first.Key, again.Resolved, again.Key)
	}
	if first.Request.Ref != s.Ref {
		t.Errorf("the plan is of %q", first.Request.Ref)
	}
	if err := s.Builder.Check(first.Resolved); err != nil {
		t.Errorf("what it resolves to can't be asked for: %v", err)
	}
}

// build: a plan gives an image that the store takes, byte for byte the same each time.
func (s Suite) build(t *testing.T) {
	p, store := s.plan(t), open(t, s.Builder)
	img, err := store.Build(t.Context(), p.Request, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := s.Builder.Build(t.Context(), p, dir, nothing); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, image.ManifestName))
	want, werr := os.ReadFile(filepath.Join(img.Dir, image.ManifestName))
	if err := errors.Join(err, werr); err != nil || string(b) != string(want) {
		t.Errorf("a second build gave (%v)\n%s, want\n%s", err, b, want)
	}
	from, err := img.Provenance()
	if err != nil || from.Key != p.Key || from.Request.Ref != s.Ref || from.Resolved != p.Resolved {
		t.Errorf("provenance %+v, %v; want that of the plan", from, err)
	}
	if img.Version != image.FormatVersion || img.Runtime == nil || !img.Runtime.Guest {
		t.Errorf("image.json of version %d says %+v of its use", img.Version, img.Runtime)
	}
}

// foreign: a plan that another builder has made is an error, not a panic.
func (s Suite) foreign(t *testing.T) {
	p := s.plan(t)
	if p.Pinned == nil {
		t.Skip("the builder pins nothing of its own")
	}
	p.Pinned = struct{ of string }{"another builder"}
	if err := s.Builder.Build(t.Context(), p, t.TempDir(), nothing); err == nil {
		t.Error("a plan of another builder was built")
	}
}

// cancel: a build whose context is over ends with its cause, and the store is as before.
func (s Suite) cancel(t *testing.T) {
	store := open(t, s.Builder)
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := store.Build(ctx, image.Request{Ref: s.Ref}, func(mvm.Progress) { cancel(stop) })
	if err == nil {
		t.Skip("it was done before it could be stopped")
	}
	if !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
		t.Errorf("a stopped build ends with %v", err)
	}
	all, err := store.List()
	if err != nil || len(all) != 0 {
		t.Errorf("after a stopped build there are images %v, %v", all, err)
	}
	if _, err := store.Build(t.Context(), image.Request{Ref: s.Ref}, nil); err != nil {
		t.Errorf("the next build: %v", err)
	}
}

// change: another image under the same reference has another key.
func (s Suite) change(t *testing.T) {
	store := open(t, s.Builder)
	before := s.plan(t)
	first, err := store.Build(t.Context(), before.Request, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Change(t)
	after := s.plan(t)
	second, err := store.Build(t.Context(), after.Request, nil)
	if err != nil || after.Key == before.Key || second.Digest == first.Digest {
		t.Errorf("key %s and image %s before a change, key %s and image %s (%v) after it", before.Key, first.Digest, after.Key, second.Digest, err)
	}
}

func open(t *testing.T, b image.Builder) *image.DirStore {
	t.Helper()
	s, err := image.Open(t.TempDir(), []image.Builder{b}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
