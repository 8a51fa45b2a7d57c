package oci_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/image"
	"mvm/internal/image/boot"
	"mvm/internal/image/imagetest"
	"mvm/internal/image/oci"
	"mvm/internal/testenv"
	"mvm/test/hub"
)

// credentials are docker's config.json for the registry.
func credentials(t *testing.T, h hub.Hub, pw string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, h.Credentials(pw), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// layerOf makes a layer of files.
func layerOf(t *testing.T, files map[string]string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for n, content := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t *testing.T, arch string, c v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.Architecture, f.OS, f.Config = arch, "linux", c
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	return img
}

// push pushes an image for two platforms and returns the reference.
func push(t *testing.T, h hub.Hub, tag string, c v1.Config, files map[string]string) string {
	t.Helper()
	ref, err := name.ParseReference(h.Host + "/team/app:" + tag)
	if err != nil {
		t.Fatal(err)
	}
	index := v1.ImageIndex(empty.Index)
	for _, arch := range []string{"arm64", "amd64"} {
		img := imageOf(t, arch, c, layerOf(t, map[string]string{"etc/arch": arch}), layerOf(t, files))
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	auth := h.Auth()
	if err := remote.WriteIndex(ref, index, remote.WithAuth(auth), remote.WithTransport(h.Client().Transport)); err != nil {
		t.Fatal(err)
	}
	return oci.Registry + ref.String()
}

func store(t *testing.T, o oci.Options) *image.DirStore {
	t.Helper()
	if o.Base == nil {
		o.Base = testenv.Base(t)
	}
	s, err := image.Open(filepath.Join(t.TempDir(), "images"), oci.New(o), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func rootOf(t *testing.T, img image.Image) fs.FS {
	t.Helper()
	f, err := os.Open(img.Path(*img.RootFS))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	root, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestRegistry: a tag of a registry with a password is the image for this architecture, is
// built once, and is built again when it changes.
func TestRegistry(t *testing.T) {
	h := hub.New()
	t.Cleanup(h.Close)
	c := v1.Config{
		Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"}, Env: []string{"MODE=x", "PATH=/bin"}, User: "1000:1001", WorkingDir: "/srv/app", StopSignal: "SIGQUIT",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "53/udp": {}},
	}
	ref := push(t, h, "v1", c, map[string]string{"bin/app": "first"})
	s := store(t, oci.Options{Credentials: credentials(t, h, hub.Password), PrivateRegistries: []string{h.Host}})
	first, err := s.Build(t.Context(), image.Request{Ref: ref}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"etc/arch": "amd64", "bin/app": "first",
		"etc/mvm/services/app.json": `{"name":"app","command":["/bin/app","serve"],"user":"1000:1001","dir":"/srv/app","env":{"MODE":"x","PATH":"/bin"},"ready":{"tcp":"127.0.0.1:8080"},"stop_signal":"QUIT"}`} {
		if got, err := fs.ReadFile(rootOf(t, first), file); err != nil || string(got) != want {
			t.Errorf("%s is %q, want %q: %v", file, got, want, err)
		}
	}
	for _, dir := range []string{"data", "proc", "srv/app"} {
		if info, err := fs.Stat(rootOf(t, first), dir); err != nil || !info.IsDir() {
			t.Errorf("%s: %v %v", dir, info, err)
		}
	}
	again, err := s.Build(t.Context(), image.Request{Ref: ref}, nil)
	if err != nil || again.Digest != first.Digest {
		t.Errorf("built again it is %s, was %s: %v", again.Digest, first.Digest, err)
	}
	push(t, h, "v1", c, map[string]string{"bin/app": "second"})
	second, err := s.Build(t.Context(), image.Request{Ref: ref}, nil)
	if err != nil || second.Digest == first.Digest {
		t.Errorf("another image at the tag gives %s, the first was %s: %v", second.Digest, first.Digest, err)
	}
	h.Close() // a registry that does not answer: what was built last serves
	if last, err := s.Build(t.Context(), image.Request{Ref: ref}, nil); err != nil || last.Digest != second.Digest {
		t.Errorf("without the registry it is %s, want %s: %v", last.Digest, second.Digest, err)
	}
}

// TestAdapted: an image of a program that mvm knows gets mvm's files in place of a service of
// its command, also over links and files of its own; another image, and one with service
// definitions, stay as they are. Other files make another image.
func TestAdapted(t *testing.T) {
	h := hub.New()
	t.Cleanup(h.Close)
	content := "first"
	o := oci.Options{Base: testenv.Base(t), Credentials: credentials(t, h, hub.Password), PrivateRegistries: []string{h.Host}}
	o.Adapt = func(s definition.Service) (map[string]boot.Added, error) {
		if s.Command[0] != "known" || s.Dir != "/app" || s.User != "node" || s.Env["A"] != "b" {
			return nil, nil
		}
		return map[string]boot.Added{
			"/etc/mvm/services/known.json": {Content: []byte(`{"name":"known","command":["/opt/run.sh"]}`)},
			"/opt/run.sh":                  {Content: []byte(content), Executable: true},
		}, nil
	}
	c := v1.Config{Cmd: []string{"known"}, WorkingDir: "/app", User: "node", Env: []string{"A=b"}}
	ref := push(t, h, "v1", c, map[string]string{"opt/run.sh": "the image's own"})
	s := store(t, o)
	build := func(ref string) (image.Image, fs.FS) {
		t.Helper()
		img, err := s.Build(t.Context(), image.Request{Ref: ref}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return img, rootOf(t, img)
	}
	first, root := build(ref)
	got, err := fs.ReadFile(root, "opt/run.sh")
	if info, serr := fs.Stat(root, "opt/run.sh"); err != nil || serr != nil || string(got) != content || info.Mode().Perm() != 0o755 {
		t.Errorf("got %q of %v: %v %v", got, info, err, serr)
	}
	if info, err := fs.Stat(root, "etc/mvm/services/known.json"); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the definition: %v %v", info, err)
	}
	if _, err := fs.Stat(root, "etc/mvm/services/app.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a service of the command as well: %v", err)
	}
	content = "second"
	if second, _ := build(ref); second.Digest == first.Digest {
		t.Error("other files of mvm's give the same image")
	}
	_, root = build(push(t, h, "v2", c, map[string]string{"etc/mvm/services/own.json": `{"name":"own","command":["/own"]}`}))
	if _, err := fs.Stat(root, "opt/run.sh"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an image with definitions gets files: %v", err)
	}
	c.Cmd = []string{"other"}
	_, root = build(push(t, h, "v3", c, map[string]string{"other": "x"}))
	if _, err := fs.Stat(root, "etc/mvm/services/app.json"); err != nil {
		t.Errorf("another image has no service: %v", err)
	}
}

// TestRefusals: what is refused, and as what.
func TestRefusals(t *testing.T) {
	h := hub.New()
	t.Cleanup(h.Close)
	base := testenv.Base(t)
	plain := v1.Config{Cmd: []string{"/bin/app"}}
	ref := push(t, h, "v1", plain, map[string]string{"bin/app": "x"})
	private := []string{h.Host}
	good := credentials(t, h, hub.Password)
	helper := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(helper, []byte(`{"credsStore":"secretservice"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := httptest.NewServer(http.RedirectHandler("http://"+strings.Replace(h.Host, "127.0.0.1", "127.0.0.2", 1)+"/v2/", http.StatusFound))
	defer elsewhere.Close()
	host := strings.TrimPrefix(elsewhere.URL, "http://")
	for what, c := range map[string]struct {
		ref  string
		o    oci.Options
		kind mvm.Kind
		says string
	}{
		"a private address":           {ref, oci.Options{Credentials: good}, mvm.KindPolicy, "private_registries"},
		"a private address by name":   {strings.Replace(ref, "127.0.0.1", "localhost", 1), oci.Options{Credentials: good}, mvm.KindPolicy, "not a public address"},
		"metadata of a cloud":         {"oci:169.254.169.254/a/b:c", oci.Options{}, mvm.KindPolicy, "169.254.169.254"},
		"a private IPv6 address":      {"oci:[::1]:80/a/b:c", oci.Options{}, mvm.KindPolicy, "::1"},
		"led to a private address":    {"oci:" + host + "/a/b:c", oci.Options{PrivateRegistries: []string{host}}, mvm.KindPolicy, "127.0.0.2"},
		"no password":                 {ref, oci.Options{PrivateRegistries: private}, mvm.KindPolicy, "docker login"},
		"a wrong password":            {ref, oci.Options{PrivateRegistries: private, Credentials: credentials(t, h, "wrong")}, mvm.KindPolicy, "docker login"},
		"a helper":                    {ref, oci.Options{PrivateRegistries: private, Credentials: helper}, mvm.KindInvalid, "under auths"},
		"no such tag":                 {strings.TrimSuffix(ref, "v1") + "v9", oci.Options{PrivateRegistries: private, Credentials: good}, mvm.KindNotFound, "the tag"},
		"no registry":                 {"oci:app:v1", oci.Options{}, mvm.KindInvalid, "names no registry"},
		"no name":                     {"oci:registry.example.com/", oci.Options{}, mvm.KindInvalid, "HOST/NAME"},
		"a relative archive":          {"oci-archive:app.tar", oci.Options{}, mvm.KindInvalid, "absolute"},
		"no archive":                  {"oci-archive:/nothing/app.tar", oci.Options{}, mvm.KindInvalid, "no such file"},
		"a device":                    {"oci-archive:/dev/zero", oci.Options{}, mvm.KindInvalid, "neither"},
		"neither entrypoint nor cmd":  {oci.Archive + saveAs(t, nil, empties(t)), oci.Options{}, mvm.KindInvalid, "neither an entrypoint nor a command"},
		"a stop signal that is none":  {oci.Archive + saveAs(t, map[string]any{"Cmd": []string{"x"}, "StopSignal": "SIGNONE"}, empties(t)), oci.Options{}, mvm.KindInvalid, "stop_signal"},
		"a health check that is none": {oci.Archive + saveAs(t, map[string]any{"Cmd": []string{"x"}, "Healthcheck": map[string]any{"Test": []string{"?", "x"}}}, empties(t)), oci.Options{}, mvm.KindInvalid, "health check"},
		"a tag that an archive lacks": {oci.Archive + saveAs(t, map[string]any{"Cmd": []string{"x"}}, empties(t)) + ":v9", oci.Options{}, mvm.KindNotFound, "registry.example.com/app:v1"},
		"a layer that is no archive":  {oci.Archive + saveAs(t, map[string]any{"Cmd": []string{"x"}}, []byte(strings.Repeat("x", 2000))), oci.Options{}, mvm.KindInvalid, "read entry 1"},
	} {
		t.Run(what, func(t *testing.T) {
			c.o.Base = base
			s := store(t, c.o)
			err := s.Check(c.ref)
			if err == nil {
				_, err = s.Build(t.Context(), image.Request{Ref: c.ref}, nil)
			}
			if !mvm.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), hub.Password) {
				t.Errorf("error %v of kind %s, want %s that says %q", err, mvm.KindOf(err), c.kind, c.says)
			}
		})
	}
}

func empties(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestChangedBlob: of a stored image, a blob in which one bit is another is refused.
func TestChangedBlob(t *testing.T) {
	layout := t.TempDir()
	saved := saveAs(t, map[string]any{"Cmd": []string{"/bin/app"}}, empties(t))
	if _, ok := toLayoutAt(t, saved, layout); !ok {
		t.Fatal("skopeo can't read it")
	}
	o := oci.Options{Base: testenv.Base(t)}
	if _, err := store(t, o).Build(t.Context(), image.Request{Ref: oci.Archive + layout}, nil); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(layout, "blobs/sha256/*"))
	if err != nil || len(blobs) != 3 {
		t.Fatalf("%d blobs: %v", len(blobs), err)
	}
	for _, blob := range blobs {
		was, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Replace(bytes.Replace(was, []byte(`"schemaVersion":2`), []byte(`"schemaVersion":3`), 1), []byte("/bin/app"), []byte("/bin/apq"), 1)
		if bytes.Equal(changed, was) { // a layer
			changed = bytes.Clone(was)
			changed[len(changed)-2] ^= 1
		}
		if err := os.WriteFile(blob, changed, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := store(t, o).Build(t.Context(), image.Request{Ref: oci.Archive + layout}, nil); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("with another %s: error %v, want a refusal", filepath.Base(blob)[:8], err)
		}
		if err := os.WriteFile(blob, was, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBuildEnds: a build that is given up leaves no process and nothing in the store.
func TestBuildEnds(t *testing.T) {
	var entries bytes.Buffer
	w := tar.NewWriter(&entries)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Size: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	saved := saveAs(t, map[string]any{"Cmd": []string{"/zeros"}}, entries.Bytes(), empties(t))
	dir := t.TempDir()
	s, err := image.Open(dir, oci.New(oci.Options{Base: testenv.Base(t)}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = s.Build(ctx, image.Request{Ref: oci.Archive + saved}, func(p mvm.Progress) {
		if strings.HasPrefix(p.Text, "reading layer 2") {
			cancel()
		}
	})
	if err == nil {
		t.Fatal("it was built")
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left in the store: %v %v", left, err)
	}
}

// TestBuilder: the builder of stored images keeps the contract.
func TestBuilder(t *testing.T) {
	saved := saveAs(t, map[string]any{"Cmd": []string{"/bin/app"}}, empties(t))
	for _, b := range oci.New(oci.Options{Base: testenv.Base(t)}) {
		if b.Scheme() == oci.Archive {
			imagetest.Run(t, imagetest.Suite{Slow: true, Builder: b, Ref: oci.Archive + saved, Wrong: []string{oci.Archive + "relative.tar"}})
		}
	}
}
