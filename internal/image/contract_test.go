package image_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/fakeimage"
	"mvm/internal/image/imagetest"
)

// TestBuilders: those of this package and of the fake host keep the contract.
func TestBuilders(t *testing.T) {
	t.Run("dir", func(t *testing.T) {
		dir := program(t, fromBase)
		imagetest.Run(t, imagetest.Suite{Builder: image.DirBuilder{Bases: []image.Builder{&base{version: "1"}}}, Ref: "dir:" + dir, Wrong: []string{"dir:relative", "dir:"},
			Change: func(t *testing.T) { must(t, os.WriteFile(filepath.Join(dir, "hello"), []byte("changed"), 0o755)) }})
	})
	t.Run("whole dir", func(t *testing.T) {
		dir := folder(t, map[string]string{"image.json": `{"kernel": {"name": "vmlinux"}, "initrd": {"name": "initrd"}}`, "vmlinux": "kernel", "initrd": "initrd"})
		imagetest.Run(t, imagetest.Suite{Builder: image.DirBuilder{}, Ref: "dir:" + dir,
			Change: func(t *testing.T) { must(t, os.WriteFile(filepath.Join(dir, "initrd"), []byte("changed"), 0o644)) }})
	})
	t.Run("fake", func(t *testing.T) {
		imagetest.Run(t, imagetest.Suite{Builder: fakeimage.New("builtin:"), Ref: "builtin:minimal", Wrong: []string{"builtin:nothere"}})
	})
}

// shaped builds another image for each role and profile, and can't be asked while it is away.
type shaped struct {
	toy
	away error
}

func (b *shaped) Resolve(_ context.Context, req image.Request, _ func(mvm.Progress)) (image.Plan, error) {
	return image.Plan{Request: req, Key: string(req.Role) + " " + req.Profile, Resolved: req.Ref}, b.away
}

func (b *shaped) Build(ctx context.Context, plan image.Plan, dir string, progress func(mvm.Progress)) error {
	plan.Request.Ref += " for " + plan.Key
	return b.toy.Build(ctx, plan, dir, progress)
}

// TestRolesOfOneReference: each role and profile of a reference has an image of its own, also
// while the source does not answer, and asking again builds nothing.
func TestRolesOfOneReference(t *testing.T) {
	b := &shaped{}
	s := open(t, t.TempDir(), b)
	requests := []image.Request{
		{Ref: "toy:a", Role: mvm.RoleGateway, Profile: "minimal"},
		{Ref: "toy:a", Role: mvm.RoleWorker, Profile: "minimal"},
		{Ref: "toy:a", Role: mvm.RoleWorker, Profile: "python"},
	}
	got, seen := map[image.Request]string{}, map[string]bool{}
	for _, req := range requests {
		img, err := s.Build(t.Context(), req, nil)
		must(t, err)
		got[req], seen[img.Digest] = img.Digest, true
	}
	if len(seen) != len(requests) {
		t.Errorf("%d requests gave %d images", len(requests), len(seen))
	}
	for _, b.away = range []error{nil, mvm.Errorf(mvm.KindUnavailable, "the source does not answer")} {
		for _, req := range requests {
			if img, err := s.Build(t.Context(), req, nil); err != nil || img.Digest != got[req] {
				t.Errorf("%+v again, source away %v: image %s, %v; want %s", req, b.away, img.Digest, err, got[req])
			}
		}
	}
	if n := b.builds.Load(); int(n) != len(requests) {
		t.Errorf("%d builds for %d requests", n, len(requests))
	}
}

// TestRequestsShareWhatIsTheSame: a builder that does not look at the role builds once.
func TestRequestsShareWhatIsTheSame(t *testing.T) {
	b := &toy{key: "1"}
	s := open(t, t.TempDir(), b)
	for _, role := range []mvm.Role{mvm.RoleGateway, mvm.RoleWorker, mvm.RoleWorker} {
		if _, err := s.Build(t.Context(), image.Request{Ref: "toy:a", Role: role, Tenant: string(role)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.builds.Load(); n != 1 {
		t.Errorf("%d builds, want one", n)
	}
}

// TestGCDoesNotWaitForABuild: a build that hangs holds up neither GC nor other builds, and GC
// takes nothing from it.
func TestGCDoesNotWaitForABuild(t *testing.T) {
	dir, hangs, goOn := t.TempDir(), make(chan struct{}), make(chan struct{})
	b := &toy{key: "1"}
	s := open(t, dir, b)
	old := build(t, s, "toy:old")
	past := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(old.Dir, past, past))
	b.before = func(context.Context, string) error {
		close(hangs)
		<-goOn
		return nil
	}
	type result struct {
		img image.Image
		err error
	}
	done := make(chan result, 1)
	go func() {
		img, err := s.Build(context.WithoutCancel(t.Context()), image.Request{Ref: "toy:hangs"}, nil)
		done <- result{img, err}
	}()
	<-hangs
	b.before = nil
	collected := make(chan error, 1)
	go func() {
		_, err := open(t, dir, b).GC(context.WithoutCancel(t.Context()), func(string) bool { return false })
		collected <- err
	}()
	select {
	case err := <-collected:
		must(t, err)
	case <-time.After(time.Minute):
		t.Error("GC waits for a build that hangs")
	}
	if _, err := s.Get(old.Digest); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("GC left an image that nobody uses: %v", err)
	}
	if left := leftovers(t, dir); len(left) != 1 {
		t.Errorf("during a build there is %v in the store's tmp folder, want its folder", left)
	}
	build(t, s, "toy:other")
	close(goOn)
	r := <-done
	must(t, r.err)
	if err := s.Verify(t.Context(), r.img.Digest); err != nil {
		t.Errorf("the image of a build that GC ran beside: %v", err)
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("after the build there is %v", left)
	}
}

// TestBuildThatFillsTheDisk: it is stopped before the disk is full, and leaves nothing.
func TestBuildThatFillsTheDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
	b := &toy{before: func(ctx context.Context, dir string) error {
		f, err := os.Create(filepath.Join(dir, "spam"))
		if err != nil {
			return err
		}
		defer f.Close()
		for part := make([]byte, 64<<10); ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
			if _, err := f.Write(part); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	}}
	s := open(t, dir, b)
	_, err := s.Build(t.Context(), image.Request{Ref: "toy:a"}, nil)
	if !errors.Is(err, syscall.ENOSPC) || !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "stopped before the disk was full") {
		t.Errorf("got %v, want the build stopped for want of space", err)
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("the build left %v", left)
	}
	b.before = nil
	build(t, s, "toy:a")
}

// TestVersion1IsRead: an image that an older mvm has built is used without another build.
func TestVersion1IsRead(t *testing.T) {
	dir, b := t.TempDir(), &toy{key: "1"}
	img := build(t, open(t, dir, b), "toy:a")
	img.Version, img.Runtime = 1, nil
	old := olderStore(t, img)
	again := build(t, open(t, old, b), "toy:a")
	if n := b.builds.Load(); n != 1 || again.Version != 1 {
		t.Errorf("%d builds, and the image has version %d, want the one of version 1", n, again.Version)
	}
}

// olderStore is a store as an older mvm has left it: with the image, and a reference that names
// neither role nor architecture.
func olderStore(t *testing.T, img image.Image) string {
	t.Helper()
	store := t.TempDir()
	text, err := json.MarshalIndent(img, "", "  ")
	must(t, err)
	text = append(text, '\n')
	sum := sha256.Sum256(text)
	digest := hex.EncodeToString(sum[:])
	to := filepath.Join(store, "sha256-"+digest)
	must(t, errors.Join(os.MkdirAll(to, 0o755), os.MkdirAll(filepath.Join(store, "refs"), 0o755)))
	for _, f := range []image.File{img.Kernel, img.Initrd} {
		must(t, image.Link(img.Path(f), filepath.Join(to, f.Name)))
	}
	must(t, os.WriteFile(filepath.Join(to, image.ManifestName), text, 0o444))
	ref, err := json.Marshal(map[string]string{"ref": "toy:a", "key": "1toy:a", "digest": "sha256:" + digest, "built": "2026-01-01T00:00:00Z"})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(store, "refs", "older"), ref, 0o644))
	return store
}
