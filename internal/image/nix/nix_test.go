package nix_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/fakeimage"
	"mvm/internal/image/imagetest"
	"mvm/internal/image/nix"
	"mvm/internal/testenv"
)

// options are those of a host that has no network.
func options(t *testing.T) nix.Options {
	t.Helper()
	o := nix.DefaultOptions()
	o.Substituters, o.Base = nil, fakeimage.New("builtin:")
	o.Disk, o.Memory = 512<<20, 512<<20
	return o
}

// flake copies a flake of testdata, with the tools that it builds with, to a folder of the test.
func flake(t *testing.T, name string) string {
	t.Helper()
	if _, err := nix.Version(t.Context()); err != nil {
		t.Fatalf("%v (scripts/setup --test installs it)", err)
	}
	dir := filepath.Join(t.TempDir(), "flake")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tools", "busybox"), string(b))
	if err := os.Chmod(filepath.Join(dir, "tools", "busybox"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func builder(t *testing.T, o nix.Options, scheme string) image.Builder {
	t.Helper()
	b, err := image.BuilderOf(nix.New(o), scheme+"x")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func store(t *testing.T, o nix.Options) *image.DirStore {
	t.Helper()
	s, err := image.Open(filepath.Join(t.TempDir(), "images"), nix.New(o), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSuite: a flake without nixpkgs, built by Nix offline, is an image like any other.
func TestSuite(t *testing.T) {
	dir, o := flake(t, "guest"), options(t)
	o.Base = testenv.Builtin(t)
	imagetest.Run(t, imagetest.Suite{Builder: builder(t, o, nix.Path), Ref: nix.Path + dir, Slow: true,
		Wrong:  []string{"path:flake", "path:/", "path:/srv/flake#packages", "path:/srv/flake?ref=main", "path:/srv/flake?dir=../etc"},
		Change: func(t *testing.T) { write(t, filepath.Join(dir, "page"), "version 2\n") }})
}

// TestReferences: what a reference may be, before anything is read.
func TestReferences(t *testing.T) {
	for _, c := range []struct{ ref, why string }{
		{"github:openclaw/nix-openclaw", ""},
		{"github:openclaw/nix-openclaw/main?dir=images", ""},
		{"github:owner", "it is not github:OWNER/REPO"},
		{"github:owner/repo?host=10.0.0.1", "it can't ask for host"},
		{"github:owner/../x", "it is not github:OWNER/REPO"},
		{"git+https://git.example.com/team/flake?ref=main", ""},
		{"git+https://user:word@git.example.com/team/flake", "it is not git+https://HOST/PATH"},
		{"git+https:", "it is not git+https://HOST/PATH"},
		{"git+https://git.example.com/team/flake?url=file:///etc", "it can't ask for url"},
		{"path:/srv/flake?dir=a/b", ""},
	} {
		b, err := image.BuilderOf(nix.New(nix.DefaultOptions()), c.ref+" ")
		if err == nil {
			err = b.Check(c.ref)
		}
		if c.why == "" && err != nil || c.why != "" && (!mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s: %v, want %q", c.ref, err, c.why)
		}
	}
	for scheme, want := range map[string]bool{nix.GitHub: false, nix.Git: false, nix.Path: true} {
		if got := builder(t, nix.DefaultOptions(), scheme).ReadsHost(scheme + "x"); got != want {
			t.Errorf("%s reads the host: %v, want %v", scheme, got, want)
		}
	}
}

const profilesFile = `
[meta]
version = 1
[profiles.minimal]
module = "a.nix"
[profiles.python]
module = "b.nix"
[roles.worker]
module = "w.nix"
requires_secrets_drive = true
[roles.capability-imessage]
module = "i.nix"
`

// TestAttribute: role and profile name a package of the flake.
func TestAttribute(t *testing.T) {
	for _, c := range []struct {
		role          mvm.Role
		profile, file string
		want, why     string
	}{
		{mvm.RoleWorker, "minimal", "", "packages.x86_64-linux.tenant-minimal", ""},
		{mvm.RoleGateway, "minimal", "", "packages.x86_64-linux.tenant-minimal", ""},
		{mvm.RoleGateway, "python", "", "packages.x86_64-linux.tenant-python", ""},
		{"", "", "", "packages.x86_64-linux.tenant-minimal", ""},
		{mvm.RoleWorker, "minimal", profilesFile, "packages.x86_64-linux.tenant-worker-minimal", ""},
		{mvm.RoleWorker, "python", profilesFile, "packages.x86_64-linux.tenant-worker-python", ""},
		{"", "", profilesFile, "packages.x86_64-linux.tenant-worker-minimal", ""},
		{"capability-imessage", "python", profilesFile, "packages.x86_64-linux.tenant-capability-imessage-python", ""},
		{mvm.RoleGateway, "minimal", profilesFile, "", "has no role gateway (the flake's are: capability-imessage, worker)"},
		{mvm.RoleWorker, "ruby", profilesFile, "", "has no profile ruby (the flake's are: minimal, python)"},
		{mvm.RoleWorker, "a.b", "", "", "profile"},
		{mvm.RoleWorker, "minimal", "[profiles.minimal]\nmodule = \"a\"\n", "", "meta is missing"},
		{mvm.RoleWorker, "minimal", strings.Replace(profilesFile, "version = 1", "version = 2", 1), "", "mvm-profiles.toml:3:1"},
		{mvm.RoleWorker, "minimal", strings.Replace(profilesFile, "requires_secrets_drive", "requires_secret_drive", 1), "", "did you mean requires_secrets_drive?"},
		{mvm.RoleWorker, "minimal", strings.Replace(profilesFile, `"w.nix"`, "1", 1), "", "must be a string"},
		{mvm.RoleWorker, "minimal", "profiles = 1\n[meta]\nversion = 1\n", "", "must be a table"},
	} {
		var file []byte
		if c.file != "" {
			file = []byte(c.file)
		}
		got, err := nix.AttributeOf(image.Request{Role: c.role, Profile: c.profile}, file)
		if c.why == "" && (err != nil || got != c.want) {
			t.Errorf("role %q, profile %q: %q, %v, want %q", c.role, c.profile, got, err, c.want)
		}
		if c.why != "" && (!mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("role %q, profile %q: %v, want it refused: %s", c.role, c.profile, err, c.why)
		}
	}
}

// TestRolesOfAFlake: each role and profile is an image of its own, which says what it was built
// from.
func TestRolesOfAFlake(t *testing.T) {
	dir, o := flake(t, "guest"), options(t)
	s := store(t, o)
	outputs := map[string]string{}
	build := func(role mvm.Role, profile, attribute string) {
		t.Helper()
		img, err := s.Build(t.Context(), image.Request{Ref: nix.Path + dir, Role: role, Profile: profile}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := img.Provenance()
		if err != nil {
			t.Fatal(err)
		}
		if p.Inputs["attribute"] != "packages.x86_64-linux."+attribute || !strings.HasPrefix(p.Inputs["lock"], "sha256:") || !strings.HasPrefix(p.Inputs["source"], "sha256-") ||
			p.Inputs["isolation"] != "cage" || !strings.HasPrefix(p.Resolved, nix.Path+dir+"?") || !strings.Contains(p.Resolved, "narHash=") {
			t.Errorf("%s %s has provenance %+v", role, profile, p)
		}
		if other := outputs[p.Inputs["output"]]; other != "" {
			t.Errorf("%s is the output of %s and %s", p.Inputs["output"], other, attribute)
		}
		outputs[p.Inputs["output"]] = attribute
	}
	build(mvm.RoleWorker, "minimal", "tenant-worker-minimal")
	build(mvm.RoleWorker, "python", "tenant-worker-python")
	build(mvm.RoleGateway, "minimal", "tenant-gateway-minimal")
	if err := os.Remove(filepath.Join(dir, "mvm-profiles.toml")); err != nil {
		t.Fatal(err)
	}
	build(mvm.RoleGateway, "minimal", "tenant-minimal")
	build(mvm.RoleWorker, "python", "tenant-python")
	if len(outputs) != 5 {
		t.Errorf("outputs %v", outputs)
	}
}

// TestUpgrade: a build has the Nix that the host has now.
func TestUpgrade(t *testing.T) {
	dir := t.TempDir()
	install := func(name, text string) {
		t.Helper()
		write(t, filepath.Join(dir, name), text)
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nix.Tools(t.Context(), dir); !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "apt install nix-bin") {
		t.Errorf("a host without Nix: %v", err)
	}
	install("nix", "#!/bin/sh\necho nix 2.8.0\n")
	if version, err := nix.Tools(t.Context(), dir); err != nil || version != "2.8.0" {
		t.Errorf("version %q, %v", version, err)
	}
	install("nix", "#!/bin/sh\necho nix 2.9.1\n")
	if version, err := nix.Tools(t.Context(), dir); err != nil || version != "2.9.1" {
		t.Errorf("after an upgrade: version %q, %v", version, err)
	}
}

// TestProgress: who waits sees what Nix does, and what the build writes.
func TestProgress(t *testing.T) {
	var all strings.Builder
	_, err := store(t, options(t)).Build(t.Context(), image.Request{Ref: nix.Path + flake(t, "guest")}, func(p mvm.Progress) { fmt.Fprintln(&all, p.Text) })
	if err != nil {
		t.Fatalf("%v, after\n%s", err, all.String())
	}
	for _, want := range []string{"evaluating the flake in a cage on this host, with Nix ", "building '/nix/store/", "> made guest-worker-minimal", "copying /nix/store/"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("progress says nothing of %q:\n%s", want, all.String())
		}
	}
}

// TestExampleInTheDocs: the example of mvm-profiles.toml is one that mvm takes.
func TestExampleInTheDocs(t *testing.T) {
	b, err := os.ReadFile("../../../docs/nix.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```toml\n")
	example, _, ok := strings.Cut(rest, "```\n")
	got, err := nix.AttributeOf(image.Request{Role: mvm.RoleWorker, Profile: "minimal"}, []byte(example))
	if want := "packages.x86_64-linux.tenant-worker-minimal"; !ok || err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}
