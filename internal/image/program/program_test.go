package program_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/image"
	"mvm/internal/image/program"
	"mvm/internal/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// static is a static program: the test's own cases need no more of one.
func static(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "app")
	source := filepath.Join(t.TempDir(), "app.go")
	must(t, os.WriteFile(source, []byte("package main\n\nfunc main() { println(\"it runs\") }\n"), 0o600))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", file, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return file
}

func build(t *testing.T, p manifest.Program, folder string) program.Result {
	t.Helper()
	r, err := program.Build(t.Context(), p, folder)
	must(t, err)
	return r
}

// unpack unpacks the archive of the folder, as Linux does with an initrd.
func unpack(t *testing.T, folder string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder, "files.cpio"))
	must(t, err)
	to := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "cpio", "-idm", "--quiet")
	cmd.Dir, cmd.Stdin = to, bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	return to
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// TestProgram: the folder has the program, its files and how it runs, the same bytes each
// time, and another image when something changes.
func TestProgram(t *testing.T) {
	app, src, parent := static(t), t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(src, "static/deep"), 0o700))
	must(t, os.WriteFile(filepath.Join(src, "static/deep/page"), []byte("page"), 0o600))
	must(t, os.WriteFile(filepath.Join(src, "static/run"), []byte("#!/bin/sh\n"), 0o700))
	must(t, os.Symlink("deep/page", filepath.Join(src, "static/link")))
	p := manifest.Program{Binary: app, Command: []string{"app", "-v"}, Port: 8080, Ready: "/healthz", User: "1000:1000", Dir: "/srv/app", Stop: "sigint",
		Env:   map[string]string{"MODE": "fast"},
		Files: []manifest.ProgramFile{{Source: filepath.Join(src, "static"), Path: "/srv/static"}, {Source: filepath.Join(src, "static/deep/page"), Path: "/etc/app/", Mode: 0o640}}}
	folder := filepath.Join(parent, "image")
	first := build(t, p, folder)
	if !first.Changed || first.Ref != "dir:"+folder || len(first.Notes) != 0 {
		t.Errorf("the first build gave %+v", first)
	}
	root := unpack(t, folder)
	for path, want := range map[string]os.FileMode{"usr/bin/app": 0o755, "srv/static/deep/page": 0o644, "srv/static/run": 0o755, "etc/app/page": 0o640, "srv/app": os.ModeDir | 0o755} {
		info, err := os.Lstat(filepath.Join(root, path))
		must(t, err)
		if info.Mode() != want {
			t.Errorf("/%s is %v in the guest, want %v", path, info.Mode(), want)
		}
	}
	if to, err := os.Readlink(filepath.Join(root, "srv/static/link")); err != nil || to != "deep/page" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	text, err := os.ReadFile(filepath.Join(root, "etc/mvm/services/app.json"))
	must(t, err)
	services, err := definition.All(map[string][]byte{"app": text})
	must(t, err)
	s := services[0]
	if !slices.Equal(s.Command, []string{"/usr/bin/app", "-v"}) || s.User != "1000:1000" || s.Dir != "/srv/app" || s.StopSignal != "INT" ||
		s.Env["MODE"] != "fast" || s.Env["PORT"] != "8080" || s.Ready.HTTP != "http://127.0.0.1:8080/healthz" {
		t.Errorf("the service is %s", text)
	}

	before, err := os.Stat(folder)
	must(t, err)
	if again := build(t, p, folder); again.Changed || again.Digest != first.Digest {
		t.Errorf("the same build again gave %+v, want the unchanged %s", again, first.Digest)
	}
	if after, err := os.Stat(folder); err != nil || !os.SameFile(before, after) {
		t.Errorf("the folder was replaced by the same: %v", err)
	}
	other := filepath.Join(t.TempDir(), "image")
	build(t, p, other)
	for _, name := range names(t, folder) {
		a, errA := os.ReadFile(filepath.Join(folder, name))
		b, errB := os.ReadFile(filepath.Join(other, name))
		if err := errors.Join(errA, errB); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs in another folder: %v", name, err)
		}
	}
	p.Env["MODE"] = "slow"
	if next := build(t, p, folder); !next.Changed || next.Digest == first.Digest {
		t.Errorf("another environment gave %+v", next)
	}
	if left := names(t, parent); len(left) != 1 {
		t.Errorf("beside the image there is %v", left)
	}
}

// TestProgramBecomesAnImage: the store takes the folder.
func TestProgramBecomesAnImage(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "image")
	build(t, manifest.Program{Binary: static(t)}, folder)
	b, err := os.ReadFile(filepath.Join(folder, image.ManifestName))
	must(t, err)
	if !json.Valid(b) || !strings.Contains(string(b), `"from": "builtin:minimal"`) {
		t.Errorf("image.json is %s", b)
	}
	var ref image.Builder = image.DirBuilder{}
	if err := ref.Check("dir:" + folder); err != nil {
		t.Error(err)
	}
}

// TestDynamicProgram: a program that needs a loader and libraries has them in its image, and
// runs there with nothing else.
func TestDynamicProgram(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("chroot needs root")
	}
	folder := filepath.Join(t.TempDir(), "image")
	r := build(t, manifest.Program{Binary: "/bin/ls", Command: []string{"ls", "-d", "/usr"}}, folder)
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "linked dynamically") {
		t.Errorf("notes %q", r.Notes)
	}
	cmd := exec.CommandContext(t.Context(), r.Command[0], r.Command[1:]...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", []string{}, &syscall.SysProcAttr{Chroot: unpack(t, folder)}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "/usr\n" {
		t.Errorf("in its image the program says %q, %v", out, err)
	}
}

// needy makes a dynamic program that needs a library which is nowhere.
func needy(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/usr/bin/git")
	must(t, err)
	b = bytes.ReplaceAll(b, []byte("libz.so.1\x00"), []byte("libq.so.1\x00"))
	file := filepath.Join(t.TempDir(), "needy")
	must(t, os.WriteFile(file, b, 0o755))
	return file
}

// TestProgramRefuses: what can't run in a guest is said, with what to do, before anything is
// written, and an image that is there stays.
func TestProgramRefuses(t *testing.T) {
	app, dir := static(t), t.TempDir()
	file := func(name, content string, perm os.FileMode) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(content), perm))
		return path
	}
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "pipes"), 0o700))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipes/pipe"), 0o600))
	elf, err := os.ReadFile(app)
	must(t, err)
	elf[18] = 183 // e_machine: arm64
	arm := file("arm", string(elf), 0o755)
	with := func(files ...manifest.ProgramFile) manifest.Program {
		return manifest.Program{Binary: app, Files: files}
	}
	tests := map[string]struct {
		p         manifest.Program
		want, fix string
	}{
		"missing":           {manifest.Program{Binary: filepath.Join(dir, "none")}, "does not exist", "build it first"},
		"not executable":    {manifest.Program{Binary: file("plain", "#!/bin/sh\n", 0o644)}, "is not executable", "chmod +x"},
		"folder":            {manifest.Program{Binary: dir}, "is a folder", "--file"},
		"pipe":              {manifest.Program{Binary: filepath.Join(dir, "pipe")}, "not a regular file", ""},
		"other machine":     {manifest.Program{Binary: arm}, "is for arm64", "GOARCH=amd64"},
		"macOS":             {manifest.Program{Binary: file("mac", "\xcf\xfa\xed\xfe....", 0o755)}, "is for macOS", "GOOS=linux"},
		"Windows":           {manifest.Program{Binary: file("app.exe", "MZ......", 0o755)}, "is for Windows", "GOOS=linux"},
		"text":              {manifest.Program{Binary: file("text", "hello world", 0o755)}, "neither a Linux program", ""},
		"empty":             {manifest.Program{Binary: file("empty", "", 0o755)}, "empty or too short", ""},
		"damaged":           {manifest.Program{Binary: file("elf", "\x7fELF....", 0o755)}, "is damaged", ""},
		"interpreter":       {manifest.Program{Binary: file("script", "#!/usr/bin/python3\n", 0o755)}, "needs /usr/bin/python3", "container image"},
		"missing library":   {manifest.Program{Binary: needy(t)}, "does not have libq.so.1", "link it statically"},
		"nothing to run":    {manifest.Program{Port: 80}, "nothing to run", "--binary"},
		"ready, no port":    {manifest.Program{Binary: app, Ready: "/x"}, "needs a port", "--port"},
		"user":              {manifest.Program{Binary: app, User: "deploy"}, `user "deploy" is not in builtin:minimal`, "--user 1000"},
		"signal":            {manifest.Program{Binary: app, Stop: "WHATEVER"}, "stop_signal", ""},
		"missing file":      {with(manifest.ProgramFile{Source: filepath.Join(dir, "none"), Path: "/x"}), "none does not exist", "check the path"},
		"pipe in a folder":  {with(manifest.ProgramFile{Source: filepath.Join(dir, "pipes"), Path: "/x"}), "device, pipe or socket", ""},
		"mounted over":      {with(manifest.ProgramFile{Source: app, Path: "/data/app"}), "mounts over", ""},
		"guest agent":       {with(manifest.ProgramFile{Source: app, Path: "/init"}), "/init is mvm-guest", ""},
		"two for one place": {with(manifest.ProgramFile{Source: app, Path: "/x"}, manifest.ProgramFile{Source: arm, Path: "/x"}), "two files are for /x", ""},
		"below a file":      {with(manifest.ProgramFile{Source: app, Path: "/x"}, manifest.ProgramFile{Source: arm, Path: "/x/y"}), "is below /x", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			folder := filepath.Join(parent, "image")
			must(t, os.Mkdir(folder, 0o755))
			must(t, os.WriteFile(filepath.Join(folder, image.ManifestName), []byte("before"), 0o644))
			_, err := program.Build(t.Context(), tt.p, folder)
			var e *mvm.Error
			if !mvm.IsKind(err, mvm.KindInvalid) || !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(e.Fix, tt.fix) {
				t.Errorf("got %v (fix %q), want an error with %q and %q", err, e.Fix, tt.want, tt.fix)
			}
			if b, err := os.ReadFile(filepath.Join(folder, image.ManifestName)); err != nil || string(b) != "before" {
				t.Errorf("the image that was there is %q, %v", b, err)
			}
			if left := names(t, parent); len(left) != 1 {
				t.Errorf("the build left %v", left)
			}
		})
	}
}

// TestProgramLeavesOtherFoldersAlone: a folder with something else is not replaced.
func TestProgramLeavesOtherFoldersAlone(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("work"), 0o600))
	_, err := program.Build(t.Context(), manifest.Program{Binary: static(t)}, dir)
	if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "thesis.txt") {
		t.Errorf("got %v, want a refusal that names the file", err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"thesis.txt"}) {
		t.Errorf("the folder has %v", got)
	}
}

// TestProgramInterrupted: an interrupted build leaves what was there, and nothing else.
func TestProgramInterrupted(t *testing.T) {
	parent := t.TempDir()
	folder := filepath.Join(parent, "image")
	p := manifest.Program{Binary: static(t)}
	first := build(t, p, folder)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.Env = map[string]string{"A": "1"}
	if _, err := program.Build(ctx, p, folder); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
	p.Env = nil
	if again := build(t, p, folder); again.Changed || again.Digest != first.Digest || len(names(t, parent)) != 1 {
		t.Errorf("after an interrupted build %+v, and %v", again, names(t, parent))
	}
}

// TestProgramOnAFullDisk: the image that was there stays, and the error says what to do.
func TestProgramOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a file system of a fixed size needs root")
	}
	parent := t.TempDir()
	must(t, syscall.Mount("tmpfs", parent, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { must(t, syscall.Unmount(parent, 0)) })
	folder := filepath.Join(parent, "image")
	p := manifest.Program{Binary: static(t)}
	first := build(t, p, folder)
	large := filepath.Join(t.TempDir(), "large")
	must(t, os.WriteFile(large, make([]byte, 8<<20), 0o600))
	p.Files = []manifest.ProgramFile{{Source: large, Path: "/large"}}
	if _, err := program.Build(t.Context(), p, folder); !errors.Is(err, syscall.ENOSPC) || !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("got %v, want no space left", err)
	}
	p.Files = nil
	if again := build(t, p, folder); again.Changed || again.Digest != first.Digest || len(names(t, parent)) != 1 {
		t.Errorf("after a full disk %+v, and %v", again, names(t, parent))
	}
}
