package vm_test

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"mvm"
	"mvm/internal/manifest"
	"mvm/internal/testenv"
	"mvm/test/hub"
)

// TestOpenClawContainer: `mvm new openclaw --image` with a container image of the layout of
// OpenClaw's official one. mvm's programs are in it, run as the image's user, with state on
// the data disk; requests arrive by the template's route, and OpenClaw is asked before it
// sleeps and told after it woke. Node is the workload of these tests.
func TestOpenClawContainer(t *testing.T) {
	h := newHost(t, "qemu")
	ref := pushOpenClaw(t)
	tpl, err := manifest.FindTemplate("openclaw", "")
	must(t, err)
	secrets := func(string) ([]byte, error) { return []byte("secret-token"), nil }
	cfg, err := tpl.ParseNewConfig("alice.toml", []byte(`
[secrets]
gateway_token = { file = "token" }
[overrides.workers]
vcpus = 1
mem_mib = 256
data_disk_mib = 64
[overrides.gateways]
vcpus = 1
mem_mib = 256
`), secrets)
	must(t, err)
	d, _, err := tpl.Deployment("alice", cfg, manifest.NewOptions{Flake: ref})
	must(t, err)
	if _, err := h.client.Apply(h.ctx(), d, mvm.ApplyOptions{}, nil); err != nil {
		t.Fatalf("deploy: %v\n%s", err, h.log())
	}
	p, err := h.client.Pool(h.ctx(), "alice", "gateways")
	must(t, err)
	for n := range 2 {
		want := fmt.Sprintf("user 1000, args [\"/opt/openclaw/launch.mjs\" \"gateway\"], home /data/home, state /data/openclaw of user 1000, mode production, "+
			"token \"secret-token\", suspended %[1]d, resumed %[1]d\nexport const home = \"/app\";\nexport const cache = \"/data/openclaw/compile-cache\";\n", n)
		if got := h.page(p.Bound[0].String(), "/", "x-mvm-user", "me"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		h.do(h.only("workers").ID, mvm.OpSleep)
	}
}

// pushOpenClaw starts a registry, and pushes an image to it that is as OpenClaw's. It returns
// the reference.
func pushOpenClaw(t *testing.T) string {
	t.Helper()
	h := hub.New()
	t.Cleanup(h.Close)
	must(t, os.WriteFile(registries().Credentials, h.Credentials(hub.Password), 0o600))
	node, err := os.ReadFile(filepath.Join(place(), "workload"))
	must(t, err)
	found, err := filepath.Glob(filepath.Join(testenv.Cache(t), "builtin", "parts", "busybox-*", "busybox"))
	must(t, err)
	if len(found) == 0 {
		t.Fatal("the cache has no busybox")
	}
	busybox, err := os.ReadFile(found[0])
	must(t, err)
	file := func(name string, mode int64, content string) v1.Layer {
		return containerLayer(t, []byte(content), tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode})
	}
	layers := []v1.Layer{
		file("bin/busybox", 0o755, string(busybox)),
		file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n"),
		file("etc/group", 0o644, "root:x:0:\nnode:x:1000:\n"),
		file("usr/local/bin/node", 0o755, string(node)),
		file("app/openclaw.mjs", 0o755, "// OpenClaw\n"),
		containerLayer(t, nil, tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/local/bin/openclaw", Linkname: "/app/openclaw.mjs"}),
	}
	for _, applet := range []string{"bin/sh", "bin/mkdir", "bin/chown", "bin/chmod", "usr/bin/id"} {
		layers = append(layers, containerLayer(t, nil, tar.Header{Typeflag: tar.TypeLink, Name: applet, Linkname: "bin/busybox"}))
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	must(t, err)
	f, err := img.ConfigFile()
	must(t, err)
	f = f.DeepCopy()
	f.OS, f.Architecture = "linux", "amd64"
	f.Config = v1.Config{Entrypoint: []string{"tini", "-s", "--"}, Cmd: []string{"node", "openclaw.mjs", "gateway"}, User: "node", WorkingDir: "/app",
		Env:         []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NODE_ENV=production"},
		Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "node", "-e", "fetch('http://127.0.0.1:18789/healthz')"}}}
	img, err = mutate.ConfigFile(img, f)
	must(t, err)
	ref, err := name.ParseReference(h.Host + "/openclaw/openclaw:2026.8.2")
	must(t, err)
	must(t, remote.Write(ref, img, remote.WithAuth(h.Auth()), remote.WithTransport(h.Client().Transport)))
	return "oci:" + ref.String()
}
