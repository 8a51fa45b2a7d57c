package erofs_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	reader "github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mvm/internal/image/erofs"
)

// write writes the tree twice, checks that both are equal, whole blocks, and what
// fsck.erofs takes, and returns the file.
func write(t *testing.T, root *erofs.Node) string {
	t.Helper()
	var names [2]string
	var all [2][]byte
	for n := range names {
		names[n] = filepath.Join(t.TempDir(), "image.erofs")
		f, err := os.Create(names[n])
		if err != nil {
			t.Fatal(err)
		}
		if err := erofs.Write(t.Context(), f, root); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if all[n], err = os.ReadFile(names[n]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(all[0], all[1]) {
		t.Error("the same tree gave two images")
	}
	if len(all[0])%erofs.BlockSize != 0 {
		t.Errorf("the image has %d bytes, not whole blocks", len(all[0]))
	}
	if out, err := exec.Command("fsck.erofs", names[0]).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
	return names[0]
}

func file(content string) *erofs.Node {
	return &erofs.Node{Mode: unix.S_IFREG | 0o644, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func folder(children map[string]*erofs.Node) *erofs.Node {
	return &erofs.Node{Mode: unix.S_IFDIR | 0o755, Children: children}
}

// noise is content that is no hole.
func noise(n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// odd is a tree with all that the format treats apart.
func odd() *erofs.Node {
	sizes, many := map[string]*erofs.Node{}, map[string]*erofs.Node{}
	for _, n := range []int{0, 1, 31, 32, 2000, 3000, 4000, 4063, 4064, 4065, 4095, 4096, 4097, 8191, 8192, 100_000, 1 << 20} {
		sizes[fmt.Sprint(n)] = file(noise(n))
	}
	for n := range 1500 {
		many[fmt.Sprintf("%d-%s", n, strings.Repeat("x", n%200))] = file(noise(n % 50))
	}
	many[strings.Repeat("ü", 127)] = file("a long name")
	shared := file(noise(5000))
	rich := file("attributes")
	rich.Mode, rich.UID, rich.GID, rich.Mtime, rich.MtimeNsec = unix.S_IFREG|unix.S_ISUID|0o755, 70_000, 70_001, 1_700_000_000, 123
	rich.Xattrs = map[string]string{
		"security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"user.mine":           "a value", "user.empty": "", "user.large": noise(10_000),
	}
	link := func(to string) *erofs.Node { return &erofs.Node{Mode: unix.S_IFLNK | 0o777, Target: to} }
	old := folder(nil)
	old.Mode, old.Mtime = unix.S_IFDIR|unix.S_ISVTX|0o777, -5
	return folder(map[string]*erofs.Node{
		"!before-dot": file("!"), "sizes": folder(sizes), "many": folder(many), "one": shared, "rich": rich, "empty": old,
		"links": folder(map[string]*erofs.Node{"two": shared, "short": link("../one"), "long": link(strings.Repeat("a/", 2047) + "b"), "rich": rich}),
		"zeros": file(strings.Repeat("\x00", 200_000) + "end" + strings.Repeat("\x00", 9000)),
	})
}

// TestTree: another reader than ours finds in the image what was put in.
func TestTree(t *testing.T) {
	f, err := os.Open(write(t, odd()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	image, err := reader.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(name string, n *erofs.Node)
	walk = func(name string, n *erofs.Node) {
		compare(t, image, name, n)
		if n.IsDir() {
			entries, err := fs.ReadDir(image, name)
			if err != nil || len(entries) != len(n.Children) {
				t.Errorf("%s has %d entries, want %d: %v", name, len(entries), len(n.Children), err)
			}
		}
		for c, child := range n.Children {
			walk(path.Join(name, c), child)
		}
	}
	walk(".", odd())
}

func compare(t *testing.T, image fs.FS, name string, n *erofs.Node) {
	t.Helper()
	info, err := fs.Lstat(image, name)
	if err != nil {
		t.Errorf("%.80s: %v", name, err)
		return
	}
	st, ok := info.Sys().(*reader.Stat)
	if !ok {
		t.Fatalf("%s: no stat", name)
	}
	if st.UID != n.UID || st.GID != n.GID || int64(st.Mtime) != n.Mtime || st.MtimeNs != n.MtimeNsec {
		t.Errorf("%.80s: %+v, want %d:%d at %d.%d", name, st, n.UID, n.GID, n.Mtime, n.MtimeNsec)
	}
	if diff := cmp.Diff(n.Xattrs, st.Xattrs); diff != "" && len(n.Xattrs)+len(st.Xattrs) > 0 {
		t.Errorf("%.80s: attributes, want -, got +\n%.2000s", name, diff)
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		if to, err := fs.ReadLink(image, name); err != nil || to != n.Target {
			t.Errorf("%s leads to %.80q, want %.80q: %v", name, to, n.Target, err)
		}
	case unix.S_IFREG:
		got, err := fs.ReadFile(image, name)
		want, werr := content(n)
		if err != nil || werr != nil || string(got) != want {
			t.Errorf("%.80s has %d bytes that differ from the %d: %v %v", name, len(got), len(want), err, werr)
		}
	}
}

func content(n *erofs.Node) (string, error) {
	f, err := n.Open()
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(f)
	return string(b), err
}

// TestHardLinksAreOneFile: a file under many names is in the image once, and they share
// an inode. With copies the image would have 64 MiB.
func TestHardLinksAreOneFile(t *testing.T) {
	one, names := file(noise(1<<20)), map[string]*erofs.Node{}
	for n := range 64 {
		names[fmt.Sprint(n)] = one
	}
	name := write(t, folder(map[string]*erofs.Node{"bin": folder(names), "again": one}))
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(1<<20) + 4*erofs.BlockSize; info.Size() > most {
		t.Errorf("1 MiB under 65 names takes %d bytes, want at most %d", info.Size(), most)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	image, err := reader.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	first, err1 := fs.Lstat(image, "again")
	other, err2 := fs.Lstat(image, "bin/63")
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	a, b := first.Sys().(*reader.Stat), other.Sys().(*reader.Stat)
	if a.Ino != b.Ino || a.Nlink != 65 {
		t.Errorf("inodes %d and %d with %d links, want one with 65", a.Ino, b.Ino, a.Nlink)
	}
}

// TestFromFolder: hard links of a folder stay such, and what is left out is not there.
func TestFromFolder(t *testing.T) {
	dir := t.TempDir()
	for name, do := range map[string]func(string) error{
		"a":    func(p string) error { return os.WriteFile(p, []byte(noise(9000)), 0o640) },
		"left": func(p string) error { return os.WriteFile(p, []byte("out"), 0o640) },
		"l":    func(p string) error { return os.Symlink("a", p) },
	} {
		if err := do(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "a"), time.Time{}, time.Unix(99, 7)); err != nil {
		t.Fatal(err)
	}
	root, err := erofs.FromFolder(t.Context(), dir, func(name string, _ *erofs.Node) bool { return name != "left" })
	if err != nil {
		t.Fatal(err)
	}
	if root.Children["a"] != root.Children["b"] || root.Children["left"] != nil || root.Children["l"].Target != "a" || root.Children["a"].Mtime != 99 {
		t.Errorf("the tree is %+v", root.Children)
	}
	write(t, root)
}

// TestKernelMounts: the kernel reads the image as it was put in.
func TestKernelMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", write(t, odd()), dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	var walk func(name string, n *erofs.Node)
	walk = func(name string, n *erofs.Node) {
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			t.Errorf("%.80s: %v", name, err)
			return
		}
		if st.Mode != n.Mode || st.Uid != n.UID || st.Gid != n.GID || st.Mtim.Sec != n.Mtime || uint32(st.Mtim.Nsec) != n.MtimeNsec {
			t.Errorf("%.80s: %+v, want %+v", name, st, n)
		}
		for attr, want := range n.Xattrs {
			b := make([]byte, erofs.MaxXattrValue)
			size, err := unix.Lgetxattr(name, attr, b)
			if err != nil || string(b[:max(size, 0)]) != want {
				t.Errorf("%s: %s has %d bytes: %v", name, attr, size, err)
			}
		}
		switch n.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			if to, err := os.Readlink(name); err != nil || to != n.Target {
				t.Errorf("%s leads to %.80q: %v", name, to, err)
			}
		case unix.S_IFREG:
			want, err := content(n)
			if got, rerr := os.ReadFile(name); err != nil || rerr != nil || string(got) != want {
				t.Errorf("%.80s differs: %v %v", name, err, rerr)
			}
		case unix.S_IFDIR:
			if entries, err := os.ReadDir(name); err != nil || len(entries) != len(n.Children) {
				t.Errorf("%s has %d entries, want %d: %v", name, len(entries), len(n.Children), err)
			}
		}
		for c, child := range n.Children {
			walk(filepath.Join(name, c), child)
		}
	}
	walk(dir, odd())
}

// TestRefused: what the format can't hold is refused by name.
func TestRefused(t *testing.T) {
	twice := folder(nil)
	with := func(n *erofs.Node, name, value string) *erofs.Node {
		n.Xattrs = map[string]string{name: value}
		return n
	}
	for name, n := range map[string]*erofs.Node{
		"a device":            {Mode: unix.S_IFCHR | 0o600},
		"an empty link":       {Mode: unix.S_IFLNK | 0o777},
		"a link that is long": {Mode: unix.S_IFLNK | 0o777, Target: strings.Repeat("a", 4096)},
		"a name that is long": folder(map[string]*erofs.Node{strings.Repeat("a", 256): file("")}),
		"a name with a slash": folder(map[string]*erofs.Node{"a/b": file("")}),
		"a folder twice":      folder(map[string]*erofs.Node{"a": twice, "b": twice}),
		"a large attribute":   with(file(""), "user.a", strings.Repeat("a", 65536)),
		"a strange attribute": with(file(""), "system.other", "a"),
		"no content":          {Mode: unix.S_IFREG | 0o644, Size: 5},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		if err := erofs.Write(t.Context(), f, folder(map[string]*erofs.Node{"refused": n})); err == nil || !strings.Contains(err.Error(), "/refused") {
			t.Errorf("%s: error %v, want one that names /refused", name, err)
		}
		_ = f.Close()
	}
}
