package image_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/cpio"
)

const withArchive = `{"from": "base:small", "archive": {"name": "files.cpio"}}`

// archived is a folder of an image with what write puts into its archive.
func archived(t *testing.T, manifest string, write func(w *cpio.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	must(t, write(w))
	must(t, w.Close())
	return folder(t, map[string]string{"image.json": manifest, "files.cpio": b.String()})
}

// files writes files of the content "x", with the folders that they are in.
func files(paths ...string) func(*cpio.Writer) error {
	return func(w *cpio.Writer) error {
		for _, p := range paths {
			if err := w.MkdirAll(filepath.Dir(p)); err != nil {
				return err
			}
			if err := w.Bytes(p, 0o640, "x"); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestImageFromArchive: what is in the archive is added to the image, with modes and links.
func TestImageFromArchive(t *testing.T) {
	b := &base{version: "1"}
	dir := archived(t, withArchive, func(w *cpio.Writer) error {
		if err := files("/usr/bin/hello", "/etc/version")(w); err != nil {
			return err
		}
		if err := w.Dir("/srv", 0o1777); err != nil {
			return err
		}
		return w.Symlink("/srv/link", "../usr/bin/hello")
	})
	s := open(t, t.TempDir(), image.DirBuilder{Bases: []image.Builder{b}})
	first := build(t, s, "dir:"+dir)
	root := unpack(t, first.Path(first.Initrd))
	for path, want := range map[string]os.FileMode{"init": 0o755, "usr/bin/hello": 0o640, "etc/version": 0o640, "srv": os.ModeDir | os.ModeSticky | 0o777} {
		if info, err := os.Lstat(filepath.Join(root, path)); err != nil || info.Mode() != want {
			t.Errorf("/%s is %v, %v in the guest, want %v", path, info, err, want)
		}
	}
	if to, err := os.Readlink(filepath.Join(root, "srv/link")); err != nil || to != "../usr/bin/hello" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if again := build(t, s, "dir:"+dir); again.Digest != first.Digest {
		t.Errorf("the same folder gave %s, then %s", first.Digest, again.Digest)
	}
}

// TestImageOverARootFilesystem: files that are added to an image with a root filesystem are where
// mvm-guest puts them over it, and a definition among them is looked at.
func TestImageOverARootFilesystem(t *testing.T) {
	over := strings.Replace(withArchive, "small", "mounted", 1)
	s := open(t, t.TempDir(), image.DirBuilder{Bases: []image.Builder{&base{version: "1"}}})
	img := build(t, s, "dir:"+archived(t, over, files("/usr/bin/hello")))
	root := unpack(t, img.Path(img.Initrd))
	if b, err := os.ReadFile(filepath.Join(root, ".mvm/added/usr/bin/hello")); string(b) != "x" {
		t.Errorf("the file is %q, %v; want it below /.mvm/added", b, err)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/hello")); !os.IsNotExist(err) {
		t.Errorf("the file is in the initrd's own folders, which nobody sees: %v", err)
	}
	if img.RootFS == nil || !strings.Contains(img.Cmdline, "mvm.root=") {
		t.Errorf("the image lost its root filesystem: %+v", img)
	}
}

// TestImageFromArchiveRefuses: an archive that somebody made to confuse is refused whole.
func TestImageFromArchiveRefuses(t *testing.T) {
	sum := `{"from": "base:small", "archive": {"name": "files.cpio", "size": 1, "sha256": "` + strings.Repeat("0", 64) + `"}}`
	tests := map[string]struct {
		manifest string
		write    func(*cpio.Writer) error
		want     string
	}{
		"other digest":     {sum, files("/a"), "says otherwise"},
		"mounted over":     {withArchive, files("/run/a"), "mounts over"},
		"stage":            {withArchive, files("/.mvm/lower/a"), "mounts over"},
		"device":           {withArchive, func(w *cpio.Writer) error { return w.Char("/null", 0o666, 1, 3) }, "not a file with one name"},
		"add as well":      {strings.Replace(withArchive, "{", `{"add": [{"name": "x", "path": "/x"}], `, 1), files("/a"), "exclude each other"},
		"name that leaves": {strings.Replace(withArchive, "files", "../files", 1), files("/a"), "plain name"},
		"archive alone":    {strings.Replace(withArchive, `"from": "base:small", `, "", 1), files("/a"), "needs from"},
		"root filesystem":  {strings.Replace(withArchive, "small", "root", 1), files("/a"), "mvm-guest does not mount"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { refused(t, archived(t, tt.manifest, tt.write), tt.want) })
	}
	raw := func(entries ...string) string { return strings.Join(entries, "") + entry("TRAILER!!!", 0, 1, "") }
	for name, tt := range map[string]struct{ archive, want string }{
		"no archive":       {"hello", "cpio"},
		"cut off":          {entry("a", 0o100644, 1, "x"), "cpio"},
		"file twice":       {raw(entry("a", 0o100644, 1, "x"), entry("a", 0o100644, 1, "y")), "given twice"},
		"dots":             {raw(entry("../../data/a", 0o100644, 1, "x")), "mounts over"},
		"below a file":     {raw(entry("a", 0o100644, 1, "x"), entry("a/b", 0o100644, 1, "x")), "which is no folder"},
		"below a link":     {raw(entry("a", 0o120777, 1, "/data"), entry("a/b", 0o100644, 1, "x")), "which is no folder"},
		"hard link":        {raw(entry("a", 0o100644, 2, ""), entry("b", 0o100644, 2, "x")), "not a file with one name"},
		"pipe":             {raw(entry("a", 0o010644, 1, "")), "not a file with one name"},
		"link to nowhere":  {raw(entry("a", 0o120777, 1, "")), "not a file with one name"},
		"long link":        {raw(entry("a", 0o120777, 1, strings.Repeat("x", 5000))), "not a file with one name"},
		"size that is not": {fmt.Sprintf("070701%08x%08x%s", 1, 0o100644, strings.Repeat("f", 88)), "cpio"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, folder(t, map[string]string{"image.json": withArchive, "files.cpio": tt.archive}), tt.want)
		})
	}
}

// refused: the folder becomes no image, and leaves nothing in the store.
func refused(t *testing.T, dir, want string) {
	t.Helper()
	store := t.TempDir()
	_, err := open(t, store, image.DirBuilder{Bases: []image.Builder{&base{version: "1"}}}).Build(t.Context(), image.Request{Ref: "dir:" + dir}, nil)
	if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an invalid image with %q", err, want)
	}
	if left := leftovers(t, store); len(left) != 0 {
		t.Errorf("the build left %v", left)
	}
}

// entry is one of an archive that a Writer would not write.
func entry(name string, mode, links int, content string) string {
	pad := func(s string) string { return s + strings.Repeat("\x00", (4-len(s)%4)%4) }
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", 1, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	return pad(head) + pad(content)
}
