package image_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/cpio"
)

// base is a builder of images that run from an initrd, and of one that does not.
type base struct{ version string }

func (*base) Scheme() string { return "base:" }

func (*base) ReadsHost(string) bool { return false }

func (*base) Check(ref string) error {
	if ref == "base:none" {
		return mvm.Errorf(mvm.KindInvalid, "there is no %s", ref)
	}
	return nil
}

func (b *base) Resolve(_ context.Context, req image.Request, _ func(mvm.Progress)) (image.Plan, error) {
	return image.Plan{Request: req, Key: b.version, Resolved: req.Ref + "@" + b.version}, nil
}

func (b *base) Build(ctx context.Context, plan image.Plan, dir string, _ func(mvm.Progress)) error {
	ref := plan.Request.Ref
	var initrd bytes.Buffer
	w := cpio.NewWriter(&initrd)
	err := errors.Join(w.MkdirAll("/etc"), w.Bytes("/etc/version", 0o644, b.version), w.Bytes("/init", 0o755, "init"), w.Close())
	err = errors.Join(err, os.WriteFile(filepath.Join(dir, "vmlinux"), []byte("kernel"), 0o644),
		os.WriteFile(filepath.Join(dir, "initrd"), initrd.Bytes(), 0o644), os.WriteFile(filepath.Join(dir, "rootfs"), []byte("root"), 0o644))
	if err != nil {
		return err
	}
	img := image.Image{Name: ref, Arch: "amd64", Cmdline: "quiet"}
	img.Kernel, err = image.Measure(ctx, dir, "vmlinux")
	if err == nil {
		img.Initrd, err = image.Measure(ctx, dir, "initrd")
	}
	if ref == "base:mounted" {
		img.Cmdline += " mvm.root=mvm-root"
	}
	if ref == "base:root" || ref == "base:mounted" {
		rootfs, ferr := image.Measure(ctx, dir, "rootfs")
		img.RootFS, img.RootFSType, err = &rootfs, "ext4", errors.Join(err, ferr)
	}
	return errors.Join(err, image.WriteManifest(dir, img))
}

const fromBase = `{"from": "base:small", "add": [{"name": "hello", "path": "/usr/bin/hello"}, {"name": "notes", "path": "/etc/version"}]}`

func program(t *testing.T, manifest string) string {
	t.Helper()
	dir := folder(t, map[string]string{"image.json": manifest, "hello": "program", "notes": "added"})
	must(t, os.Chmod(filepath.Join(dir, "hello"), 0o700))
	return dir
}

// unpack unpacks each archive of the initrd over the one before, as Linux does.
func unpack(t *testing.T, initrd string) string {
	t.Helper()
	b, err := os.ReadFile(initrd)
	must(t, err)
	to := t.TempDir()
	for len(b) > 0 {
		end := bytes.Index(b, []byte("TRAILER!!!"))
		if end < 0 {
			t.Fatalf("%d bytes after the last archive", len(b))
		}
		end = (end + 511) / 512 * 512
		cmd := exec.Command("cpio", "-idmu", "--quiet")
		cmd.Dir, cmd.Stdin = to, bytes.NewReader(b[:end])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cpio: %v: %s", err, out)
		}
		b = b[end:]
	}
	return to
}

// TestImageFrom: files of a folder are added to the image that it names, and a newer
// program, or a newer image below it, gives a new one.
func TestImageFrom(t *testing.T) {
	b := &base{version: "1"}
	s, dir := open(t, t.TempDir(), image.DirBuilder{Bases: []image.Builder{b}}), program(t, fromBase)
	first := build(t, s, "dir:"+dir)
	root := unpack(t, first.Path(first.Initrd))
	for file, want := range map[string]string{"init": "init", "usr/bin/hello": "program", "etc/version": "added"} {
		if got, err := os.ReadFile(filepath.Join(root, file)); string(got) != want {
			t.Errorf("the guest has %q, %v in /%s; want %q", got, err, file, want)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "usr/bin/hello")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("a program is %v, %v in the guest; want it 0755", info, err)
	}
	if first.Cmdline != "quiet" || first.Name != "dir:"+dir {
		t.Errorf("the image is %q with cmdline %q, want the folder's name and the cmdline of what it is from", first.Name, first.Cmdline)
	}
	if again := build(t, s, "dir:"+dir); again.Digest != first.Digest {
		t.Errorf("the same folder gave %s, then %s", first.Digest, again.Digest)
	}
	must(t, os.WriteFile(filepath.Join(dir, "hello"), []byte("newer program"), 0o755))
	second := build(t, s, "dir:"+dir)
	b.version = "2"
	third := build(t, s, "dir:"+dir)
	if second.Digest == first.Digest || third.Digest == second.Digest {
		t.Errorf("images %s, %s and %s: want three", first.Digest, second.Digest, third.Digest)
	}
	if err := s.Verify(t.Context(), first.Digest); err != nil {
		t.Error(err)
	}
}

// TestImageFromRefuses: what can't be meant is said when it is built, before a guest
// boots without its program.
func TestImageFromRefuses(t *testing.T) {
	edit := func(old, with string) string { return strings.Replace(fromBase, old, with, 1) }
	many, err := json.Marshal(map[string]any{"from": "base:small", "add": make([]map[string]string, 257)})
	must(t, err)
	tests := map[string]struct{ manifest, want string }{
		"relative path":    {edit("/usr/bin/hello", "usr/bin/hello"), "clean absolute path"},
		"path that leaves": {edit("/usr/bin/hello", "/usr/../../x"), "clean absolute path"},
		"no path":          {edit("/usr/bin/hello", "/"), "clean absolute path"},
		"mounted over":     {edit("/usr/bin/hello", "/data/hello"), "mounts over"},
		"path twice":       {edit("/etc/version", "/usr/bin/hello"), "twice"},
		"below a file":     {edit("/etc/version", "/usr/bin/hello/x"), "which is a file"},
		"name that leaves": {edit(`"hello"`, `"../hello"`), "plain name"},
		"missing file":     {edit(`"hello"`, `"other"`), "other"},
		"link":             {edit(`"hello"`, `"link"`), "regular file"},
		"kernel as well":   {edit(`{"from"`, `{"kernel": {"name": "hello"}, "from"`), "must not set cmdline, kernel"},
		"add alone":        {edit(`"from": "base:small", `, ""), "add needs from"},
		"nothing to add":   {`{"from": "base:small"}`, "add has 0 files"},
		"too many":         {string(many), "add has 257 files"},
		"no such image":    {edit("base:small", "base:none"), "there is no base:none"},
		"other builder":    {edit("base:small", "dir:/srv"), "no builder"},
		"root file system": {edit("base:small", "base:root"), "root filesystem"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir, store := program(t, tt.manifest), t.TempDir()
			must(t, os.Symlink("hello", filepath.Join(dir, "link")))
			_, err := open(t, store, image.DirBuilder{Bases: []image.Builder{&base{version: "1"}}}).Build(t.Context(), image.Request{Ref: "dir:" + dir}, nil)
			if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an invalid image with %q", err, tt.want)
			}
			if left := leftovers(t, store); len(left) != 0 {
				t.Errorf("the build left %v", left)
			}
		})
	}
	_, err = open(t, t.TempDir(), image.DirBuilder{}).Build(t.Context(), image.Request{Ref: "dir:" + program(t, fromBase)}, nil)
	if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "base:small") {
		t.Errorf("without a builder of such images: %v", err)
	}
}
