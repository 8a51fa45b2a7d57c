package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/testenv"
)

// nixFlake copies a flake of package nix, with the busybox that it builds with.
func nixFlake(t *testing.T, name, to string) {
	t.Helper()
	must(t, os.CopyFS(to, os.DirFS(filepath.Join("../../internal/image/nix/testdata", name))))
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	b, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(to, "tools"), 0o755))
	must(t, os.WriteFile(filepath.Join(to, "tools", "busybox"), b, 0o755)) //nolint:gosec // a program
}

// TestNixFlake: a flake that Nix builds offline is deployed, answers through the gateway, sleeps
// and goes on where it was; a changed one is rolled out, and rolled back. A build of one that
// does harm fails, and the pool keeps its image.
func TestNixFlake(t *testing.T) {
	h := newHost(t, "qemu")
	flake := filepath.Join(t.TempDir(), "flake")
	nixFlake(t, "guest", flake)
	h.deploy(strings.ReplaceAll(`
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
target = { pool_id = "workers", instance_selector = "any", target_port = 8080 }

[[pools]]
id = "workers"
flake = "path:FLAKE"
vcpus = 1
mem_mib = 256
desired_running = 1
`, "FLAKE", flake))
	gateways, err := h.client.Pool(h.ctx(), "acme", "gateways")
	must(t, err)
	web := gateways.Bound[0].String()
	for range 2 {
		if got := h.page(web, "/who"); got != "worker minimal\n" {
			t.Errorf("it is made for %q", got)
		}
		if got := h.page(web, "/"); got != "version 1\n" {
			t.Errorf("it serves %q", got)
		}
		h.do(h.only("workers").ID, mvm.OpSleep)
	}
	must(t, os.WriteFile(filepath.Join(flake, "page"), []byte("version 2\n"), 0o600))
	must(t, os.Chmod(filepath.Join(flake, "page"), 0o644)) //nolint:gosec // a page
	before, err := h.client.Pool(h.ctx(), "acme", "workers")
	must(t, err)
	built, err := h.client.BuildPool(h.ctx(), "acme", "workers", nil)
	must(t, err)
	if built.Digest == before.Builds[0].Digest {
		t.Errorf("the changed flake has the image %s, as before", built.Digest)
	}
	h.serves(web, "version 2\n")

	// A flake that does harm: the pool keeps what it has.
	must(t, os.RemoveAll(flake))
	nixFlake(t, "hostile", flake)
	if _, err := h.client.BuildPool(h.ctx(), "acme", "workers", nil); err == nil {
		t.Error("a flake without the package was built")
	}
	kept, err := h.client.Pool(h.ctx(), "acme", "workers")
	must(t, err)
	if kept.Builds[0].ID != built.ID {
		t.Errorf("the pool has build %s, want %s", kept.Builds[0].ID, built.ID)
	}
	if got := h.page(web, "/"); got != "version 2\n" {
		t.Errorf("after a build that failed, it serves %q", got)
	}

	h.do(h.only("workers").ID, mvm.OpSleep) // what a person has changed is left alone while it runs
	_, err = h.client.RollbackPool(h.ctx(), "acme", "workers", "")
	must(t, err)
	h.serves(web, "version 1\n")
}

// serves waits until the page is what was rolled out: a sleeper boots with it when it wakes.
func (h *host) serves(web, want string) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		if got := h.page(web, "/"); got != want {
			return mvm.Errorf(mvm.KindState, "it serves %q, want %q", got, want)
		}
		return nil
	})
}
