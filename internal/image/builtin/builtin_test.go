package builtin_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/boot"
	"mvm/internal/image/builtin"
	"mvm/internal/testenv"
)

// newBuilder returns a Builder whose parts are the test cache's, copied as links, so
// that a test can remove them and nothing is fetched twice.
func newBuilder(t *testing.T, guest string) (*builtin.Builder, string) {
	t.Helper()
	testenv.Image(t, "builtin:minimal") // has the parts made
	dir := t.TempDir()
	for _, pattern := range []string{"kernel-*", "busybox-*"} {
		found, err := filepath.Glob(filepath.Join(testenv.Cache(t), "builtin", "parts", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("the cache has no part %s (%v)", pattern, err)
		}
		for _, from := range found {
			if info, err := os.Stat(from); err != nil || !info.IsDir() {
				continue
			}
			to := filepath.Join(dir, "parts", filepath.Base(from))
			if err := os.CopyFS(to, os.DirFS(from)); err != nil {
				t.Fatal(err)
			}
		}
	}
	base, err := boot.Open(boot.Options{Dir: dir, GuestBinary: guest, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return builtin.New(base), dir
}

func openStore(t *testing.T, dir string, b *builtin.Builder) *image.DirStore {
	t.Helper()
	s, err := image.Open(dir, []image.Builder{b}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustBuild(t *testing.T, s *image.DirStore, ref string) image.Image {
	t.Helper()
	img, err := s.Build(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// initrdFiles returns the names in an initrd, in their order.
func initrdFiles(t *testing.T, img image.Image) []string {
	t.Helper()
	out := cpio(t, img, "-t")
	return strings.Fields(out)
}

// initrdFile returns the content of a file in an initrd.
func initrdFile(t *testing.T, img image.Image, name string) string {
	t.Helper()
	return cpio(t, img, "-i", "--to-stdout", name)
}

func cpio(t *testing.T, img image.Image, args ...string) string {
	t.Helper()
	f, err := os.Open(img.Path(img.Initrd))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var errOut bytes.Buffer
	cmd := exec.Command("cpio", append([]string{"--quiet"}, args...)...)
	cmd.Stdin, cmd.Stderr = f, &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cpio: %v: %s", err, errOut.String())
	}
	return string(out)
}

func TestMinimalAndGateway(t *testing.T) {
	minimal, gateway := testenv.Image(t, "builtin:minimal"), testenv.Image(t, "builtin:gateway")
	want := []string{"init", "dev/console", "etc/passwd", "etc/mvm/modules", "lib/modules/virtio_net.ko"}
	extra := []string{"bin/busybox", "bin/sh", "etc/mvm/services/app.json"}
	for _, name := range append(slices.Clone(want), extra...) {
		if files := initrdFiles(t, minimal); !slices.Contains(files, name) {
			t.Errorf("minimal has no %s", name)
		}
	}
	files := initrdFiles(t, gateway)
	for _, name := range append(slices.Clone(want), "etc/ssl/certs/ca-certificates.crt") {
		if !slices.Contains(files, name) {
			t.Errorf("gateway has no %s", name)
		}
	}
	for _, name := range extra {
		if slices.Contains(files, name) {
			t.Errorf("gateway has %s", name)
		}
	}
	if gateway.RootFS != nil || gateway.Kernel != minimal.Kernel {
		t.Errorf("gateway has rootfs %v and kernel %v, want none and minimal's", gateway.RootFS, gateway.Kernel)
	}
	kernel, err := os.Open(gateway.Path(gateway.Kernel))
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(kernel, magic); err != nil || string(magic) != "\x7fELF" {
		t.Errorf("kernel begins with %q (%v), want an uncompressed ELF file", magic, err)
	}
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	img := testenv.Image(t, "builtin:gateway")
	list := strings.Fields(initrdFile(t, img, strings.TrimPrefix(boot.ModulesFile, "/")))
	at := func(name string) int { return slices.Index(list, "/lib/modules/"+name+".ko") }
	for _, pair := range [][2]string{
		{"virtio_ring", "virtio"}, {"virtio", "virtio_pci"}, {"virtio_pci_modern_dev", "virtio_pci"},
		{"virtio_pci_legacy_dev", "virtio_pci"}, {"failover", "net_failover"}, {"net_failover", "virtio_net"},
	} {
		if before, after := at(pair[0]), at(pair[1]); before < 0 || after < 0 || before > after {
			t.Errorf("%s is at %d, %s at %d, in %v", pair[0], before, pair[1], after, list)
		}
	}
	files := initrdFiles(t, img)
	for _, path := range list {
		if !slices.Contains(files, strings.TrimPrefix(path, "/")) {
			t.Errorf("the initrd lists %s and does not have it", path)
		}
	}
}

func TestBuildIsReproducible(t *testing.T) {
	b, _ := newBuilder(t, testenv.Guest(t))
	first, second := openStore(t, t.TempDir(), b), openStore(t, t.TempDir(), b)
	if a, b := mustBuild(t, first, "builtin:minimal"), mustBuild(t, second, "builtin:minimal"); a.Digest != b.Digest {
		t.Errorf("the same inputs gave %s and %s", a.Digest, b.Digest)
	}
}

func TestAnotherGuestMakesOnlyAnotherInitrd(t *testing.T) {
	guest := testenv.Guest(t)
	b, dir := newBuilder(t, guest)
	store := t.TempDir()
	first := mustBuild(t, openStore(t, store, b), "builtin:gateway")
	text, err := os.ReadFile(guest)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "mvm-guest")
	if err := os.WriteFile(other, append(text, "another"...), 0o755); err != nil {
		t.Fatal(err)
	}
	base, err := boot.Open(boot.Options{Dir: dir, GuestBinary: other, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	second := mustBuild(t, openStore(t, store, builtin.New(base)), "builtin:gateway")
	if first.Kernel != second.Kernel || first.Initrd == second.Initrd {
		t.Errorf("kernel %v -> %v, initrd %v -> %v", first.Kernel, second.Kernel, first.Initrd, second.Initrd)
	}
	if n, err := image.Links(second.Path(second.Kernel)); err != nil || n != 3 {
		t.Errorf("the kernel has %d names (%v), want 3: the part's and two images'", n, err)
	}
}

func TestGCRemovesPartsThatNothingUses(t *testing.T) {
	b, dir := newBuilder(t, testenv.Guest(t))
	s := openStore(t, filepath.Join(dir, "images"), b)
	img := mustBuild(t, s, "builtin:gateway")
	long := time.Now().Add(-48 * time.Hour)
	partDirs := func() []string {
		entries, err := os.ReadDir(filepath.Join(dir, "parts"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			if e.IsDir() {
				if err := os.Chtimes(filepath.Join(dir, "parts", e.Name()), long, long); err != nil {
					t.Fatal(err)
				}
				name, _, _ := strings.Cut(e.Name(), "-")
				names = append(names, name)
			}
		}
		return names
	}
	partDirs()
	if _, err := s.GC(t.Context(), func(d string) bool { return d == img.Digest }); err != nil {
		t.Fatal(err)
	}
	if got := partDirs(); !slices.Equal(got, []string{"kernel"}) {
		t.Errorf("with the image kept there are the parts %v, want the kernel's", got)
	}
	if err := os.Chtimes(img.Dir, long, long); err != nil {
		t.Fatal(err)
	}
	freed, err := s.GC(t.Context(), func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	if got := partDirs(); len(got) != 0 || freed < img.Kernel.Size {
		t.Errorf("without any image there are the parts %v, and %d bytes were freed", got, freed)
	}
}

func TestCutOffPartIsBuiltAgain(t *testing.T) {
	b, dir := newBuilder(t, testenv.Guest(t))
	found, err := filepath.Glob(filepath.Join(dir, "parts", "busybox-*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no busybox part (%v)", err)
	}
	for _, f := range found { // as a crash before the rename leaves it
		if err := os.Rename(f, f+".part"); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(f+".part", "busybox"), 10); err != nil {
			t.Fatal(err)
		}
	}
	want := testenv.Image(t, "builtin:minimal")
	if got := mustBuild(t, openStore(t, t.TempDir(), b), "builtin:minimal"); got.Digest != want.Digest {
		t.Errorf("got %s, want %s", got.Digest, want.Digest)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "parts", "*.part")); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestBuildEndsWithTheContext(t *testing.T) {
	base, err := boot.Open(boot.Options{Dir: t.TempDir(), GuestBinary: testenv.Guest(t), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	_, err = openStore(t, dir, builtin.New(base)).Build(ctx, "builtin:gateway", func(p mvm.Progress) {
		if strings.HasPrefix(p.Text, "downloading") {
			cancel()
		}
	})
	if err == nil || ctx.Err() == nil {
		t.Fatalf("got %v, want the cancelled context's error", err)
	}
	for _, sub := range []string{"tmp"} {
		if entries, err := os.ReadDir(filepath.Join(dir, sub)); err != nil || len(entries) != 0 {
			t.Errorf("left over: %v (%v)", entries, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	base, err := boot.Open(boot.Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	noGuest := builtin.New(base)
	if _, err := noGuest.Key(t.Context(), "builtin:nothing"); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("builtin:nothing gives %v, want invalid", err)
	}
	if _, err := noGuest.Key(t.Context(), "builtin:gateway"); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without a guest: %v, want what to do about it", err)
	}
}

func TestWithoutApt(t *testing.T) {
	b, _ := newBuilder(t, testenv.Guest(t))
	t.Setenv("PATH", t.TempDir())
	if _, err := b.Key(t.Context(), "builtin:gateway"); !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "apt-get") {
		t.Errorf("got %v, want unavailable, naming apt-get", err)
	}
}

func TestFindGuestBinary(t *testing.T) {
	guest := testenv.Guest(t)
	if got, err := boot.FindGuestBinary(guest); err != nil || got != guest {
		t.Errorf("got %q (%v), want %q", got, err, guest)
	}
	text := filepath.Join(t.TempDir(), "mvm-guest")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/bin/ls": "not static", text: "is not a program", text + "x": "no such file"} {
		if _, err := boot.FindGuestBinary(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("FindGuestBinary(%s) gives %v, want %q", path, err, want)
		}
	}
}
