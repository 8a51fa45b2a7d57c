package production_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/manifest"
	"mvm/internal/pki"
	"mvm/internal/production"
	"mvm/internal/secrets"
	"mvm/internal/trust"
)

// fit is a host that is fit for production, with everything that can be asked for. Its
// /dev and /proc are folders.
func fit(t *testing.T) production.Host {
	t.Helper()
	dir := t.TempDir()
	at := func(p string) string { return filepath.Join(dir, p) }
	write := func(p string, data []byte, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(at(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(p), data, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("root/dev/kvm", nil, 0o600)
	write("root/proc/sys/kernel/seccomp/actions_avail", []byte("allow\n"), 0o644)
	write("root/proc/self/cgroup", []byte("0::/unit/mvm-self\n"), 0o644)
	write("root/proc/self/mountinfo", []byte("30 1 0:26 / /cg rw - cgroup2 cgroup2 rw\n"), 0o644)
	write("root/cg/unit/cgroup.controllers", []byte("memory pids\n"), 0o644)
	write("root/cg/unit/cgroup.type", []byte("domain\n"), 0o644)
	write("root/cg/unit/cgroup.procs", nil, 0o644)
	write("etc/master.key", bytes.Repeat([]byte("K"), secrets.KeySize), 0o600)
	write("data/x", nil, 0o600)
	if err := os.Mkdir(at("keys"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Generate(at("keys/fleet")); err != nil {
		t.Fatal(err)
	}
	k, err := trust.LoadPrivate(at("keys/fleet"))
	if err != nil {
		t.Fatal(err)
	}
	doc := []byte(`{"schema_version":1,"node_id":"node-1","tenants":[]}`)
	now := time.Now()
	signed, err := desired.Sign(k, doc, desired.Claims{NodeID: "node-1", Sequence: 1, IssuedAt: now, ExpiresAt: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	write("etc/desired.json", signed, 0o644)
	certs := pki.At(at("certs"), "mvm")
	if _, err := certs.Init(now); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.RotateNode("node-1", []string{"127.0.0.1"}, time.Hour, now); err != nil {
		t.Fatal(err)
	}
	c := manifest.AgentConfig{Driver: "qemu", DataDir: at("data"), KeyFile: at("etc/master.key"), NodeID: "node-1",
		Trust:     manifest.TrustConfig{TrustedKeys: at("keys"), Production: true},
		Reconcile: manifest.ReconcileConfig{File: at("etc/desired.json")},
		Remote:    manifest.RemoteConfig{Listen: ":7443", CertDir: at("certs"), TrustDomain: "mvm"},
		Hostd:     manifest.HostdConfig{Socket: "/run/hostd.sock"}}
	return production.Host{Config: c, UID: 1000, Key: secrets.Source{File: c.KeyFile, DataDir: c.DataDir}, Now: now, Root: at("root")}
}

func TestAFitHostMayStart(t *testing.T) {
	if err := production.Ready(fit(t)); err != nil {
		t.Error(err)
	}
	h := fit(t)
	h.Config.Reconcile.File, h.Config.Remote.Listen = "", ""
	if err := os.Remove(h.Config.KeyFile); err != nil {
		t.Fatal(err)
	}
	if err := production.Ready(h); err != nil {
		t.Errorf("a host at its first start: %v", err)
	}
}

func TestEachReasonThatKeepsAHostFromStarting(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(h *production.Host)
		want  string
	}{
		"no trusted key": {func(h *production.Host) { must(os.Remove(filepath.Join(h.Config.Trust.TrustedKeys, "fleet.pub"))) }, "no key is trusted"},
		"a key others write": {func(h *production.Host) {
			must(os.Chmod(filepath.Join(h.Config.Trust.TrustedKeys, "fleet.pub"), 0o666))
		}, "gives other users access"},
		"an unsigned state":    {func(h *production.Host) { must(os.WriteFile(h.Config.Reconcile.File, []byte("{}"), 0o600)) }, "is not signed"},
		"no certificates":      {func(h *production.Host) { h.Config.Remote.CertDir = filepath.Join(h.Config.DataDir, "none") }, "none"},
		"expired certificates": {func(h *production.Host) { h.Now = h.Now.Add(2 * time.Hour) }, "expired at"},
		"an open master key":   {func(h *production.Host) { must(os.Chmod(h.Config.KeyFile, 0o640)) }, "gives other users access"},
		"a key in the data":    {func(h *production.Host) { h.Key.File = filepath.Join(h.Config.DataDir, "k") }, "it is in the data directory"},
		"two keys":             {func(h *production.Host) { h.Key.Credential, h.Key.Env = "a", "b" }, "both MVM_MASTER_KEY and key_credential"},
		"driver fake":          {func(h *production.Host) { h.Config.Driver = "fake" }, "isolates nothing"},
		"no KVM":               {func(h *production.Host) { must(os.Remove(filepath.Join(h.Root, "dev/kvm"))) }, "no KVM"},
		"no root, no hostd":    {func(h *production.Host) { h.Config.Hostd.Socket = "" }, "can't give each VMM its own user"},
		"root":                 {func(h *production.Host) { h.UID, h.Config.Hostd.Socket = 0, "" }, "would run as root"},
		"root, with hostd":     {func(h *production.Host) { h.UID = 0 }, "would run as root"},
		"no seccomp":           {func(h *production.Host) { must(os.RemoveAll(filepath.Join(h.Root, "proc/sys"))) }, "no seccomp"},
	} {
		t.Run(name, func(t *testing.T) {
			h := fit(t)
			c.spoil(&h)
			err := production.Ready(h)
			if !mvm.IsKind(err, mvm.KindPolicy) || strings.Count(err.Error(), "production: ") != 1 || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want the one reason that says %q", err, c.want)
			}
		})
	}
}

func TestReasonsAreToldTogetherAndSomeCanBeAllowed(t *testing.T) {
	h := fit(t)
	h.Config.Driver = "fake"
	h.Config.Trust.TrustedKeys = filepath.Join(h.Config.DataDir, "none")
	if err := production.Ready(h); err == nil || strings.Count(err.Error(), "production: ") != 2 {
		t.Errorf("got %v, want both reasons", err)
	}
	h = fit(t)
	h.Config.Driver, h.Config.Trust.WeakIsolation = "fake", true
	if err := production.Ready(h); err != nil {
		t.Errorf("weak isolation that was asked for: %v", err)
	}
	h = fit(t)
	h.UID, h.Config.Hostd.Socket = 0, ""
	for path, text := range map[string]string{"proc/self/cgroup": "0::/unit\n", "cg/unit/cgroup.procs": "1\n"} {
		if err := os.WriteFile(filepath.Join(h.Root, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := production.Ready(h); err == nil || strings.Count(err.Error(), "production: ") != 2 || !strings.Contains(err.Error(), "the memory and processes of VMMs would not be limited") {
		t.Errorf("root without a cgroup of its own: %v, want both reasons", err)
	}
	if h.Config.Trust.WeakIsolation = true; production.Ready(h) != nil {
		t.Errorf("root with weak isolation that was asked for: %v", production.Ready(h))
	}
	h = fit(t)
	h.UID, h.Config.Hostd.Socket = 1000, "/run/hostd.sock"
	if err := production.Ready(h); err != nil {
		t.Errorf("an agent without rights, with hostd: %v", err)
	}
	h = fit(t)
	h.Key = secrets.Source{Env: base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("K"), secrets.KeySize))}
	if err := production.Ready(h); err != nil {
		t.Errorf("a key in the environment is a warning, not a reason: %v", err)
	}
}

// What starts VMMs asks for itself: in production it does not start where it can't bound
// them, unless that was asked for.
func TestWhatStartsVMMsCanBoundThem(t *testing.T) {
	h := fit(t)
	if err := production.Bounded(h.Config, h.Root); err != nil {
		t.Errorf("a host that can: %v", err)
	}
	if err := os.WriteFile(filepath.Join(h.Root, "cg/unit/cgroup.procs"), []byte("7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := production.Bounded(h.Config, h.Root); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "would not be limited") {
		t.Errorf("a host that can't: %v", err)
	}
	weak, off := h.Config, h.Config
	weak.Trust.WeakIsolation, off.Trust.Production = true, false
	for _, c := range []manifest.AgentConfig{weak, off} {
		if err := production.Bounded(c, h.Root); err != nil {
			t.Errorf("where nobody asked: %v", err)
		}
	}
}

// What starts VMMs does not start in production where a wall is missing, whichever.
func TestWhatStartsVMMsHasAllWalls(t *testing.T) {
	h := fit(t)
	if err := production.Walled(h.Config, nil); err != nil {
		t.Errorf("a host that has them: %v", err)
	}
	missing := []mvm.Finding{{What: "VMMs run without landlock: x", Fix: "boot another kernel"}}
	if err := production.Walled(h.Config, missing); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), missing[0].What) || !strings.Contains(err.Error(), missing[0].Fix) {
		t.Errorf("without one: %v", err)
	}
	weak, off := h.Config, h.Config
	weak.Trust.WeakIsolation, off.Trust.Production = true, false
	for _, c := range []manifest.AgentConfig{weak, off} {
		if err := production.Walled(c, missing); err != nil {
			t.Errorf("where nobody asked: %v", err)
		}
	}
	h.Config.Trust.JailWithout = []string{"landlock"}
	if err := production.Ready(h); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "without these walls: landlock") {
		t.Errorf("with one turned off: %v", err)
	}
}
