package image_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/image"
)

// folder makes a folder for a dir: image from names and contents.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const handWritten = `{"version":1,"name":"mine","cmdline":"quiet","kernel":{"name":"bzImage"},
	"rootfs":{"name":"root.ext4"},"rootfs_type":"ext4"}`

func TestDirImageByHand(t *testing.T) {
	dir := folder(t, map[string]string{"image.json": handWritten, "bzImage": "kernel", "root.ext4": "root"})
	s := open(t, t.TempDir(), image.DirBuilder{})
	img := build(t, s, "dir:"+dir)
	if diff := cmp.Diff([]any{"mine", "amd64", int64(6), int64(4), "ext4", ""},
		[]any{img.Name, img.Arch, img.Kernel.Size, img.RootFS.Size, img.RootFSType, img.Path(img.Initrd)}); diff != "" {
		t.Errorf("image (-want +got):\n%s", diff)
	}
	if again := build(t, s, "dir:"+dir); again.Digest != img.Digest {
		t.Errorf("the same folder gave %s, then %s", img.Digest, again.Digest)
	}
	if err := os.WriteFile(filepath.Join(dir, "bzImage"), []byte("newer kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), img.Digest); err != nil {
		t.Errorf("the image follows its folder: %v", err)
	}
	if changed := build(t, s, "dir:"+dir); changed.Digest == img.Digest {
		t.Error("a changed kernel gave the same image")
	}
}

func TestDirImageRefuses(t *testing.T) {
	good := map[string]string{"bzImage": "kernel", "root.ext4": "root"}
	edit := func(f func(m map[string]any)) string {
		var m map[string]any
		if err := json.Unmarshal([]byte(handWritten), &m); err != nil {
			t.Fatal(err)
		}
		f(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	file := func(key, name string) string {
		return edit(func(m map[string]any) { m[key] = map[string]any{"name": name} })
	}
	tests := map[string]struct{ manifest, want string }{
		"no JSON":        {"kernel = bzImage", "image.json"},
		"unknown field":  {edit(func(m map[string]any) { m["kernal"] = 1 }), "kernal"},
		"path trick":     {file("kernel", "../../etc/passwd"), "plain name"},
		"absolute path":  {file("rootfs", "/etc/passwd"), "plain name"},
		"hidden name":    {file("rootfs", ".."), "plain name"},
		"missing file":   {file("kernel", "vmlinux"), "vmlinux"},
		"symbolic link":  {file("kernel", "link"), "regular file"},
		"folder":         {file("kernel", "folder"), "regular file"},
		"no file system": {edit(func(m map[string]any) { m["rootfs_type"] = "ntfs" }), "ntfs"},
		"nothing to run": {edit(func(m map[string]any) { delete(m, "rootfs"); delete(m, "rootfs_type") }), "neither"},
		"other digest": {edit(func(m map[string]any) {
			m["kernel"] = map[string]any{"name": "bzImage", "sha256": strings.Repeat("0", 64)}
		}), "says otherwise"},
		"other machine":  {edit(func(m map[string]any) { m["arch"] = "arm64" }), "arm64"},
		"two files":      {handWritten + handWritten, "data after its JSON"},
		"huge":           {strings.Repeat(" ", 1<<20) + handWritten, "more than"},
		"two-line args":  {edit(func(m map[string]any) { m["cmdline"] = "a\nb" }), "cmdline"},
		"named manifest": {file("kernel", "image.json"), "twice"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, good)
			if err := os.Symlink("bzImage", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "image.json"), []byte(tt.manifest), 0o644); err != nil {
				t.Fatal(err)
			}
			storeDir := t.TempDir()
			_, err := open(t, storeDir, image.DirBuilder{}).Build(t.Context(), image.Request{Ref: "dir:" + dir}, nil)
			if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an invalid image with %q", err, tt.want)
			}
			if left := leftovers(t, storeDir); len(left) != 0 {
				t.Errorf("the build left %v", left)
			}
		})
	}
}
