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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/image"
)

// toy builds images of a few bytes from "toy:<content>".
type toy struct {
	key    string
	keyErr error
	builds atomic.Int32
	// before runs in each build, after some files were written.
	before func(ctx context.Context, dir string) error
}

func (*toy) Scheme() string { return "toy:" }

func (*toy) ReadsHost(string) bool { return false }

// TestReadsHost: who builds a reference says whether that reads what it names on the host;
// one that nobody builds might.
func TestReadsHost(t *testing.T) {
	builders := []image.Builder{&toy{}, image.DirBuilder{}}
	for ref, want := range map[string]bool{"toy:a": false, "dir:/srv/a": true, "dir:": true, "none:a": true, "": true, "/srv/a": true} {
		if got := image.ReadsHost(builders, ref); got != want {
			t.Errorf("%q reads the host: %v, want %v", ref, got, want)
		}
	}
}

func (*toy) Check(string) error { return nil }

func (b *toy) Resolve(_ context.Context, req image.Request, _ func(mvm.Progress)) (image.Plan, error) {
	return image.Plan{Request: req, Key: b.key + req.Ref, Resolved: req.Ref}, b.keyErr
}

func (b *toy) Build(ctx context.Context, plan image.Plan, dir string, progress func(mvm.Progress)) error {
	ref := plan.Request.Ref
	b.builds.Add(1)
	progress(mvm.Progress{Text: "toying"})
	img := image.Image{Name: ref, Arch: "amd64", Cmdline: "quiet"}
	for name, f := range map[string]*image.File{"vmlinux": &img.Kernel, "initrd": &img.Initrd} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+" of "+ref+b.key), 0o600); err != nil {
			return err
		}
		var err error
		if *f, err = image.Measure(ctx, dir, name); err != nil {
			return err
		}
	}
	if b.before != nil {
		if err := b.before(ctx, dir); err != nil {
			return err
		}
	}
	return image.WriteManifest(dir, img)
}

func open(t *testing.T, dir string, builders ...image.Builder) *image.DirStore {
	t.Helper()
	s, err := image.Open(dir, builders, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func build(t *testing.T, s *image.DirStore, ref string) image.Image {
	t.Helper()
	img, err := s.Build(t.Context(), image.Request{Ref: ref}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// leftovers lists what is in the store's tmp folder.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestBuildGivesAnImageByDigest(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, &toy{key: "1"})
	img := build(t, s, "toy:a")
	got, err := s.Get(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(img, got); diff != "" {
		t.Errorf("Get after Build (-built +got):\n%s", diff)
	}
	content, err := os.ReadFile(got.Path(got.Kernel))
	if want := "vmlinux of toy:a1"; err != nil || string(content) != want {
		t.Errorf("kernel is %q (%v), want %q", content, err, want)
	}
	info, err := os.Stat(got.Path(got.Kernel))
	if err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("kernel's mode is %v (%v), want 0444: other users' VMMs read it", info.Mode(), err)
	}
	if err := s.Verify(t.Context(), img.Digest); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("the build left %v", left)
	}
}

func TestBuildIsDoneOncePerKey(t *testing.T) {
	dir, b := t.TempDir(), &toy{key: "1"}
	first := build(t, open(t, dir, b), "toy:a")
	second := build(t, open(t, dir, b), "toy:a")
	if n := b.builds.Load(); n != 1 || first.Digest != second.Digest {
		t.Errorf("the same key was built %d times, digests %s and %s", n, first.Digest, second.Digest)
	}
	b.key = "2"
	third := build(t, open(t, dir, b), "toy:a")
	if n := b.builds.Load(); n != 2 || third.Digest == first.Digest {
		t.Errorf("another key: %d builds, digest %s", n, third.Digest)
	}
	images, err := open(t, dir, b).List()
	if err != nil || len(images) != 2 {
		t.Errorf("List has %d images (%v), want 2: the old one stays", len(images), err)
	}
}

func TestConcurrentBuildsAreOne(t *testing.T) {
	dir := t.TempDir()
	release := make(chan struct{})
	b := &toy{before: func(ctx context.Context, _ string) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	// Two stores stand for two processes: they share nothing but the folder.
	stores := []*image.DirStore{open(t, dir, b), open(t, dir, b)}
	var wg sync.WaitGroup
	var waiting atomic.Int32
	digests := make([]string, 6)
	for i := range digests {
		wg.Go(func() {
			img, err := stores[i%2].Build(t.Context(), image.Request{Ref: "toy:a"}, func(p mvm.Progress) {
				if strings.HasPrefix(p.Text, "waiting") {
					waiting.Add(1)
				}
			})
			if err != nil {
				t.Error(err)
			}
			digests[i] = img.Digest
		})
	}
	await(t, "five builds wait for the sixth", func() bool { return waiting.Load() == 5 && b.builds.Load() == 1 })
	close(release)
	wg.Wait()
	if n := b.builds.Load(); n != 1 {
		t.Errorf("built %d times, want once", n)
	}
	for _, d := range digests {
		if d != digests[0] {
			t.Errorf("digests differ: %v", digests)
			break
		}
	}
}

// Builds of one image for pools of different roles are several, and where the roles do not
// matter they end with the same digest at the same time: all of them have it, whole.
func TestEqualBuildsEndAtOnce(t *testing.T) {
	dir := t.TempDir()
	const builds, rounds = 6, 8
	var arrived atomic.Int32
	var together chan struct{}
	b := &toy{before: func(ctx context.Context, _ string) error {
		if arrived.Add(1) == builds {
			close(together)
		}
		select {
		case <-together:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	stores := []*image.DirStore{open(t, dir, b), open(t, dir, b)}
	for round := range rounds {
		arrived.Store(0)
		together = make(chan struct{})
		var wg sync.WaitGroup
		for n := range builds {
			wg.Go(func() {
				s := stores[n%2]
				img, err := s.Build(t.Context(), image.Request{Ref: fmt.Sprint("toy:", round), Profile: fmt.Sprint(n), Tenant: fmt.Sprint(n)}, nil)
				if err == nil {
					err = s.Verify(t.Context(), img.Digest)
				}
				if err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("builds have left %v", left)
	}
}

func TestWaitingForABuildEndsWithTheContext(t *testing.T) {
	dir := t.TempDir()
	started, release := make(chan struct{}), make(chan struct{})
	b := &toy{before: func(context.Context, string) error {
		close(started)
		<-release
		return nil
	}}
	s := open(t, dir, b)
	var wg sync.WaitGroup
	wg.Go(func() { build(t, s, "toy:a") })
	<-started
	ctx, cancel := context.WithCancelCause(t.Context())
	gaveUp := errors.New("gave up")
	_, err := s.Build(ctx, image.Request{Ref: "toy:a"}, func(mvm.Progress) { cancel(gaveUp) })
	if !errors.Is(err, gaveUp) {
		t.Errorf("got %v, want the context's cause", err)
	}
	close(release)
	wg.Wait()
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	broken := errors.New("broken")
	b := &toy{before: func(context.Context, string) error { return broken }}
	s := open(t, dir, b)
	if _, err := s.Build(t.Context(), image.Request{Ref: "toy:a"}, nil); !errors.Is(err, broken) {
		t.Fatalf("got %v, want the builder's error", err)
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("the build left %v", left)
	}
	if images, err := s.List(); err != nil || len(images) != 0 {
		t.Errorf("List has %v (%v), want none", images, err)
	}
	b.before = nil
	build(t, s, "toy:a")
}

func TestBuilderThatLiesIsRefused(t *testing.T) {
	b := &toy{before: func(_ context.Context, dir string) error {
		return os.WriteFile(filepath.Join(dir, "initrd"), []byte("initrd of toy:X"), 0o600)
	}}
	s := open(t, t.TempDir(), b)
	if _, err := s.Build(t.Context(), image.Request{Ref: "toy:a"}, nil); err == nil || !strings.Contains(err.Error(), "initrd") {
		t.Errorf("got %v, want an error about the initrd that is not what image.json says", err)
	}
}

func TestOpenRemovesWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	crashed := filepath.Join(dir, "tmp", "build-1", "image")
	if err := os.MkdirAll(crashed, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(crashed, "vmlinux"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("after Open there is %v", left)
	}
}

func TestOpenLeavesARunningBuildAlone(t *testing.T) {
	dir := t.TempDir()
	started, release := make(chan struct{}), make(chan struct{})
	b := &toy{before: func(context.Context, string) error {
		close(started)
		<-release
		return nil
	}}
	var wg sync.WaitGroup
	wg.Go(func() { build(t, open(t, dir, b), "toy:a") })
	<-started
	open(t, dir)
	if left := leftovers(t, dir); len(left) != 1 {
		t.Errorf("Open removed a build under way: %v", left)
	}
	close(release)
	wg.Wait()
}

func TestDamageIsFound(t *testing.T) {
	tests := map[string]struct {
		do     func(t *testing.T, img image.Image) error
		byGet  bool
		substr string
	}{
		"truncated kernel": {func(_ *testing.T, img image.Image) error { return os.Truncate(img.Path(img.Kernel), 3) }, true, "vmlinux"},
		"missing initrd":   {func(_ *testing.T, img image.Image) error { return os.Remove(img.Path(img.Initrd)) }, true, "initrd"},
		"changed manifest": {func(t *testing.T, img image.Image) error {
			p := filepath.Join(img.Dir, image.ManifestName)
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return errors.Join(os.Remove(p), os.WriteFile(p, []byte(strings.Replace(string(b), "quiet", "debug", 1)), 0o444))
		}, true, "image.json"},
		"flipped bit": {func(t *testing.T, img image.Image) error {
			f, err := os.OpenFile(img.Path(img.Kernel), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("V"), 0)
			return errors.Join(err, f.Close())
		}, false, "vmlinux"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := &toy{}
			s := open(t, t.TempDir(), b)
			img := build(t, s, "toy:a")
			if err := tt.do(t, img); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(img.Digest); (err != nil) != tt.byGet {
				t.Errorf("Get gives %v", err)
			}
			if err := s.Verify(t.Context(), img.Digest); err == nil || !strings.Contains(err.Error(), tt.substr) {
				t.Errorf("Verify gives %v, want an error about %s", err, tt.substr)
			}
			if !tt.byGet {
				return
			}
			if again := build(t, s, "toy:a"); again.Digest != img.Digest || b.builds.Load() != 2 {
				t.Errorf("a build over the damage gave %s after %d builds", again.Digest, b.builds.Load())
			}
			if err := s.Verify(t.Context(), img.Digest); err != nil {
				t.Errorf("after the new build: %v", err)
			}
		})
	}
}

func TestGetRefusesWhatIsNoDigest(t *testing.T) {
	s := open(t, t.TempDir())
	for digest, want := range map[string]mvm.Kind{
		"":                                  mvm.KindInvalid,
		"sha256:../../etc":                  mvm.KindInvalid,
		"md5:" + strings.Repeat("0", 64):    mvm.KindInvalid,
		"sha256:" + strings.Repeat("0", 64): mvm.KindNotFound,
	} {
		if _, err := s.Get(digest); !mvm.IsKind(err, want) {
			t.Errorf("Get(%q) gives %v, want kind %s", digest, err, want)
		}
	}
}

func TestGCKeepsWhatIsClaimed(t *testing.T) {
	dir := t.TempDir()
	b := &toy{}
	s := open(t, dir, b)
	kept, gone := build(t, s, "toy:kept"), build(t, s, "toy:gone")
	age(t, kept, gone)
	fresh := build(t, s, "toy:fresh")
	if err := os.Mkdir(filepath.Join(dir, "tmp", "build-crashed"), 0o700); err != nil {
		t.Fatal(err)
	}
	freed, err := s.GC(t.Context(), func(d string) bool { return d == kept.Digest })
	if err != nil {
		t.Fatal(err)
	}
	if freed <= 0 {
		t.Errorf("GC freed %d bytes, want more than 0", freed)
	}
	if _, err := s.Get(kept.Digest); err != nil {
		t.Errorf("the claimed image: %v", err)
	}
	if _, err := s.Get(gone.Digest); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("the other image: %v, want not found", err)
	}
	if _, err := s.Get(fresh.Digest); err != nil {
		t.Errorf("the image that was built a moment ago, whose user may not have claimed it yet: %v", err)
	}
	if left := leftovers(t, dir); len(left) != 0 {
		t.Errorf("GC left %v", left)
	}
	refs, err := os.ReadDir(filepath.Join(dir, "refs"))
	if err != nil || len(refs) != 2 {
		t.Errorf("there are %d refs (%v), want 2", len(refs), err)
	}
	build(t, s, "toy:gone")
	if n := b.builds.Load(); n != 4 {
		t.Errorf("after GC there were %d builds in all, want 4", n)
	}
}

// age makes the store think that the images were built an hour ago.
func age(t *testing.T, images ...image.Image) {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	for _, img := range images {
		if err := os.Chtimes(img.Dir, then, then); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBuildWithoutItsSourceUsesTheLastImage(t *testing.T) {
	dir := t.TempDir()
	b := &toy{key: "1"}
	s := open(t, dir, b)
	offline := mvm.Errorf(mvm.KindUnavailable, "no network")
	b.keyErr = offline
	if _, err := s.Build(t.Context(), image.Request{Ref: "toy:a"}, nil); !errors.Is(err, offline) {
		t.Errorf("without any image: %v, want the source's error", err)
	}
	b.keyErr = nil
	old := build(t, s, "toy:a")
	b.key = "2"
	last := build(t, s, "toy:a")
	b.keyErr = offline
	if img := build(t, s, "toy:a"); img.Digest != last.Digest {
		t.Errorf("got %s, want the last one %s (not %s)", img.Digest, last.Digest, old.Digest)
	}
}

func TestFullDiskIsSaid(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	b := &toy{before: func(_ context.Context, dir string) error {
		return os.WriteFile(filepath.Join(dir, "rootfs"), make([]byte, 2<<20), 0o600)
	}}
	s := open(t, dir, b)
	_, err := s.Build(t.Context(), image.Request{Ref: "toy:a"}, nil)
	if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want an error that says where there is no space", err)
	}
	b.before = nil
	build(t, s, "toy:a")
}

func TestUnknownScheme(t *testing.T) {
	s := open(t, t.TempDir(), &toy{})
	for _, ref := range []string{"", "toy", "toy:", "oci:x"} {
		if _, err := s.Build(t.Context(), image.Request{Ref: ref}, nil); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("Build(%q) gives %v, want invalid", ref, err)
		}
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not within 30 s: %s", what)
}
