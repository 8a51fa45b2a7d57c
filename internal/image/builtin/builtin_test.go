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

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/image"
	"mvm/internal/image/boot"
	"mvm/internal/image/builtin"
	"mvm/internal/image/imagetest"
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
	img, err := s.Build(t.Context(), image.Request{Ref: ref}, nil)
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
	mmio := strings.Fields(initrdFile(t, img, strings.TrimPrefix(boot.MMIOModulesFile, "/")))
	for _, name := range []string{"vsock", "vmw_vsock_virtio_transport", "virtio_balloon", "virtio_rng", "virtio_mmio"} {
		if path := "/lib/modules/" + name + ".ko"; !slices.Contains(mmio, path) {
			t.Errorf("a machine without PCI does not load %s: it loads %v", name, mmio)
		} else if slices.Contains(list, path) {
			t.Errorf("a machine with PCI loads %s", name)
		}
	}
	if len(mmio) == 0 || mmio[len(mmio)-1] != "/lib/modules/virtio_mmio.ko" {
		t.Errorf("virtio_mmio is not loaded last, after the drivers of the devices that it finds: %v", mmio)
	}
	list = append(list, mmio...)
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
	_, err = openStore(t, dir, builtin.New(base)).Build(ctx, image.Request{Ref: "builtin:gateway"}, func(p mvm.Progress) {
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
	if _, err := noGuest.Resolve(t.Context(), image.Request{Ref: "builtin:nothing"}, func(mvm.Progress) {}); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("builtin:nothing gives %v, want invalid", err)
	}
	if _, err := noGuest.Resolve(t.Context(), image.Request{Ref: "builtin:gateway"}, func(mvm.Progress) {}); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without a guest: %v, want what to do about it", err)
	}
}

func TestWithoutApt(t *testing.T) {
	b, _ := newBuilder(t, testenv.Guest(t))
	t.Setenv("PATH", t.TempDir())
	if _, err := b.Resolve(t.Context(), image.Request{Ref: "builtin:gateway"}, func(mvm.Progress) {}); !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "apt-get") {
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

// TestOpenClawOfAVersion: another version of OpenClaw than mvm's own has a lock that is made
// once, with the digest of every module and no address of where it is from.
func TestOpenClawOfAVersion(t *testing.T) {
	b := testenv.Builtin(t)
	const ref = "builtin:openclaw@2026.8.1"
	first, err := keyOf(t, b, ref)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := filepath.Glob(filepath.Join(testenv.Cache(t), "builtin", "parts", "openclaw-lock-*", "package-lock.json"))
	if err != nil || len(locks) != 1 {
		t.Fatalf("got locks %v, %v, want one", locks, err)
	}
	lockIsPinned(t, locks[0], "2026.8.1")
	before, err := os.Stat(locks[0])
	if err != nil {
		t.Fatal(err)
	}
	again, err := keyOf(t, b, ref)
	if err != nil || again != first {
		t.Errorf("the key of the same version is %s, %v, and was %s", again, err, first)
	}
	if after, err := os.Stat(locks[0]); err != nil || !os.SameFile(before, after) {
		t.Errorf("the lock was made again (%v)", err)
	}
	own, err := keyOf(t, b, "builtin:openclaw")
	if err != nil || own == first {
		t.Errorf("mvm's own version has the key %s, %v, want another one", own, err)
	}
	if _, err := keyOf(t, b, "builtin:openclaw@1.2.3"); !mvm.IsKind(err, mvm.KindNotFound) || !strings.Contains(err.Error(), "there is no OpenClaw 1.2.3") {
		t.Errorf("a version that is not there: %v", err)
	}
}

func keyOf(t *testing.T, b image.Builder, ref string) (string, error) {
	t.Helper()
	p, err := b.Resolve(t.Context(), image.Request{Ref: ref}, func(mvm.Progress) {})
	return p.Key, err
}

// TestVersionsOfReferences: what is no version is refused before anything is done.
func TestVersionsOfReferences(t *testing.T) {
	b := builtin.New(nil)
	for ref, want := range map[string]string{
		"builtin:openclaw@2026.8.1": "", "builtin:openclaw@2026.9.1-beta.1": "", "builtin:openclaw": "",
		"builtin:openclaw@latest":                         "is not a version of OpenClaw",
		"builtin:openclaw@":                               "is not a version of OpenClaw",
		"builtin:openclaw@1.2.3 --registry=x":             "is not a version of OpenClaw",
		"builtin:openclaw@1.2.3-" + "a/../b":              "is not a version of OpenClaw",
		"builtin:openclaw@1.2." + strings.Repeat("3", 64): "is not a version of OpenClaw",
		"builtin:minimal@1.2.3":                           "it has no versions",
		"builtin:other@1.2.3":                             "no such image is built in",
	} {
		err := b.Check(ref)
		if want == "" && err == nil {
			continue
		}
		if want == "" || !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %q", ref, err, want)
		}
	}
}

// TestInContainer: a container image that runs OpenClaw as the official one does gets mvm's
// programs, and no other image does.
func TestInContainer(t *testing.T) {
	official := definition.Service{Name: "app", Command: []string{"tini", "-s", "--", "node", "openclaw.mjs", "gateway"}, Dir: "/app", User: "node:node",
		Env: map[string]string{"NODE_ENV": "production", "HOME": "/home/node"}}
	files, err := builtin.InContainer(official)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, f := range files {
		names = append(names, name)
		if want := strings.HasSuffix(name, ".sh") || name == "/usr/local/bin/openclaw"; f.Executable != want || len(f.Content) == 0 {
			t.Errorf("%s: executable %v, %d bytes", name, f.Executable, len(f.Content))
		}
	}
	slices.Sort(names)
	want := []string{"/etc/mvm/services/openclaw-setup.json", "/etc/mvm/services/openclaw.json", "/opt/openclaw/control.mjs", "/opt/openclaw/launch.mjs",
		"/opt/openclaw/messages.mjs", "/opt/openclaw/place.mjs", "/opt/openclaw/settings.mjs", "/opt/openclaw/setup.sh", "/opt/openclaw/start.sh", "/usr/local/bin/openclaw"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	services, err := definition.All(map[string][]byte{
		"openclaw":       files["/etc/mvm/services/openclaw.json"].Content,
		"openclaw-setup": files["/etc/mvm/services/openclaw-setup.json"].Content,
	})
	if err != nil || len(services) != 2 {
		t.Fatalf("got %d services, %v", len(services), err)
	}
	setup, app := services[0], services[1]
	if app.User != "node:node" || app.Env["NODE_ENV"] != "production" || app.Env["HOME"] != "/data/home" || app.Env["OPENCLAW_STATE_DIR"] != "/data/openclaw" || app.Suspend == "" {
		t.Errorf("got service %+v", app)
	}
	if diff := cmp.Diff([]string{"/opt/openclaw/setup.sh", "node"}, setup.Command); diff != "" {
		t.Errorf("set-up (-want +got):\n%s", diff)
	}
	for what, s := range map[string]definition.Service{
		"another program":      {Command: []string{"node", "server.mjs"}},
		"another entry point":  {Command: []string{"/entrypoint.sh"}, Dir: "/app"},
		"another subcommand":   {Command: []string{"node", "openclaw.mjs", "status"}},
		"no subcommand":        {Command: []string{"node", "openclaw.mjs"}},
		"nothing":              {},
		"a file of other name": {Command: []string{"node", "my-openclaw.mjs", "gateway"}},
	} {
		if files, err := builtin.InContainer(s); err != nil || len(files) > 0 {
			t.Errorf("%s: got %d files, %v", what, len(files), err)
		}
	}
	absolute, err := builtin.InContainer(definition.Service{Command: []string{"node", "/srv/oc/openclaw.mjs", "gateway", "--allow-unconfigured"}, Dir: "/app"})
	if err != nil || !strings.Contains(string(absolute["/opt/openclaw/place.mjs"].Content), `home = "/srv/oc";`) {
		t.Errorf("got %q, %v", absolute["/opt/openclaw/place.mjs"].Content, err)
	}
	if got := string(absolute["/etc/mvm/services/openclaw-setup.json"].Content); !strings.Contains(got, `"root"`) {
		t.Errorf("an image without a user: %s", got)
	}
}

// TestBuilder: the builder keeps the contract.
func TestBuilder(t *testing.T) {
	imagetest.Run(t, imagetest.Suite{Slow: true, Builder: testenv.Builtin(t), Ref: "builtin:gateway", Wrong: []string{"builtin:nothing"}})
}
