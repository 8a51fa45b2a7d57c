package vm_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/program"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
	"mvm/test/hub"
)

// registries is how the agents of the tests reach a registry of the tests.
func registries() manifest.RegistryConfig {
	return manifest.RegistryConfig{Credentials: filepath.Join(place(), "registries.json"), Private: []string{"127.0.0.1"}}
}

// prepareContainer gives the image store the kernel and busybox that were built for the test
// cache, so that images are built without the network.
func prepareContainer(t *testing.T) {
	t.Helper()
	from, err := filepath.Glob(filepath.Join(testenv.Cache(t), "builtin", "parts", "kernel-*"))
	must(t, err)
	busybox, err := filepath.Glob(filepath.Join(testenv.Cache(t), "builtin", "parts", "busybox-*"))
	must(t, err)
	from = append(from, busybox...)
	for _, part := range from {
		if info, err := os.Stat(part); err != nil || !info.IsDir() || strings.HasSuffix(part, ".part") {
			continue
		}
		to := filepath.Join(place(), "images", "parts", "parts", filepath.Base(part))
		must(t, os.MkdirAll(to, 0o755))
		files, err := os.ReadDir(part)
		must(t, err)
		for _, f := range files {
			must(t, image.Link(filepath.Join(part, f.Name()), filepath.Join(to, f.Name())))
		}
	}
}

// TestContainerImage: an image of a registry with a password, for two platforms and of
// several layers, boots, answers through the gateway, sleeps and goes on where it was. Its
// program is a hard link to a file of a lower layer, with a capability that lets its user
// listen on port 80.
func TestContainerImage(t *testing.T) {
	h := newHost(t, "qemu")
	ref := pushContainer(t)
	h.deploy(fmt.Sprintf(`
[tenant]
id = "acme"

[[pools]]
id = "gateways"
role = "gateway"
flake = "builtin:gateway"
vcpus = 1
mem_mib = 256
desired_running = 1
publish = ["127.0.0.1:0:8080"]

[[pools.routes]]
name = "all"
match_rule = { port = 8080, path_prefix = "/" }
target = { pool_id = "workers", instance_selector = "any", target_port = 80 }

[[pools]]
id = "workers"
flake = %q
vcpus = 1
mem_mib = 256
desired_running = 1
`, ref))
	p, err := h.client.Pool(h.ctx(), "acme", "gateways")
	must(t, err)
	for n := 1; n <= 2; n++ {
		want := fmt.Sprintf("user 1000:1001, in /srv/app, mode fast, /bin/app has 2 names, request %d\n", n)
		if got := h.page(p.Bound[0].String(), "/"); got != want {
			t.Errorf("request %d: %q, want %q", n, got, want)
		}
		h.do(h.only("workers").ID, mvm.OpSleep)
	}

	// What mvm image build adds is over the files of the container image, which stay.
	over, err := program.Build(h.ctx(), manifest.Program{From: ref, Command: []string{"/bin/app", "container"}, Port: 80, User: "1000:1001", Dir: "/srv/other",
		Env: map[string]string{"MODE": "added"}}, filepath.Join(place(), "src", "over"))
	must(t, err)
	workers, err := h.client.Pool(h.ctx(), "acme", "workers")
	must(t, err)
	workers.Spec.Flake = over.Ref
	_, err = h.client.UpdatePool(h.ctx(), "acme", "workers", mvm.PoolUpdate{Spec: &workers.Spec})
	must(t, err)
	_, err = h.client.BuildPool(h.ctx(), "acme", "workers", nil)
	must(t, err)
	if got, want := h.page(p.Bound[0].String(), "/"), "user 1000:1001, in /srv/other, mode added, /bin/app has 2 names, request 1\n"; got != want {
		t.Errorf("with files over the container image: %q, want %q", got, want)
	}
}

// pushContainer starts a registry, and pushes an image to it. It returns the reference.
func pushContainer(t *testing.T) string {
	t.Helper()
	h := hub.New()
	t.Cleanup(h.Close)
	must(t, os.WriteFile(registries().Credentials, h.Credentials(hub.Password), 0o600))

	program, err := os.ReadFile(filepath.Join(place(), "workload"))
	must(t, err)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // net_bind_service, effective and permitted
	layers := []v1.Layer{
		containerLayer(t, program, tar.Header{Typeflag: tar.TypeReg, Name: "bin/first", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability}}),
		containerLayer(t, []byte("no program"), tar.Header{Typeflag: tar.TypeReg, Name: "bin/app", Mode: 0o755}),
		containerLayer(t, nil, tar.Header{Typeflag: tar.TypeReg, Name: "bin/.wh.app"}),
		containerLayer(t, nil, tar.Header{Typeflag: tar.TypeLink, Name: "bin/app", Linkname: "bin/first"}),
	}
	config := v1.Config{Entrypoint: []string{"/bin/app"}, Cmd: []string{"container"}, Env: []string{"MODE=fast"}, User: "1000:1001", WorkingDir: "/srv/app",
		StopSignal: "SIGTERM", ExposedPorts: map[string]struct{}{"80/tcp": {}}}
	index := v1.ImageIndex(empty.Index)
	for arch, layers := range map[string][]v1.Layer{"arm64": layers[1:2], "amd64": layers} {
		img, err := mutate.AppendLayers(empty.Image, layers...)
		must(t, err)
		f, err := img.ConfigFile()
		must(t, err)
		f = f.DeepCopy()
		f.OS, f.Architecture, f.Config = "linux", arch, config
		img, err = mutate.ConfigFile(img, f)
		must(t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	ref, err := name.ParseReference(h.Host + "/team/app:v1")
	must(t, err)
	must(t, remote.WriteIndex(ref, index, remote.WithAuth(h.Auth()), remote.WithTransport(h.Client().Transport)))
	return "oci:" + ref.String()
}

// containerLayer is a layer with one entry.
func containerLayer(t *testing.T, content []byte, h tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h.Size = int64(len(content))
	must(t, w.WriteHeader(&h))
	_, err := w.Write(content)
	must(t, err)
	must(t, w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	must(t, err)
	return l
}
