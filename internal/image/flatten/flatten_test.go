package flatten_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/image/erofs"
	"mvm/internal/image/flatten"
)

// entry is a tar header with its content.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}
func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}
func link(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}}
}
func hard(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}}
}

func pack(t testing.TB, all ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range all {
		e.Size = int64(len(e.content))
		e.ModTime = time.Unix(1_600_000_000, 0)
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func limits() flatten.Limits {
	return flatten.Limits{Entries: 1000, Bytes: 1 << 20, Meta: 1 << 20, Depth: 20, Links: 50, Xattrs: 1000}
}

// put flattens plain layers.
func put(t testing.TB, layers ...[]byte) (flatten.Result, error) {
	t.Helper()
	f := flatten.New(spool(t), limits())
	for _, l := range layers {
		if err := f.Add(t.Context(), flatten.Layer{Digest: digest(l), DiffID: digest(l), Blob: bytes.NewReader(l)}); err != nil {
			return flatten.Result{}, err
		}
	}
	return f.Finish()
}

func spool(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// list is the tree in words, one line for each name.
func list(t testing.TB, root *erofs.Node) []string {
	t.Helper()
	var out []string
	var walk func(name string, n *erofs.Node)
	walk = func(name string, n *erofs.Node) {
		switch n.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			for _, c := range slices.Sorted(maps.Keys(n.Children)) {
				walk(name+"/"+c, n.Children[c])
			}
			if len(n.Children) == 0 {
				out = append(out, name+"/")
			}
		case unix.S_IFLNK:
			out = append(out, name+" -> "+n.Target)
		default:
			content := ""
			if n.Size > 0 {
				r, err := n.Open()
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(r)
				if err != nil {
					t.Fatal(err)
				}
				content = string(b)
			}
			out = append(out, name+"="+content)
		}
	}
	walk("", root)
	return out
}

// TestLayers: what layers make of each other.
func TestLayers(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]entry
		want   string
	}{
		"one layer":                    {[][]entry{{dir("a"), file("a/b", "1"), file("./c", "2"), file("/d", "3"), link("l", "a/b")}}, "/a/b=1 /c=2 /d=3 /l -> a/b"},
		"parents that no entry tells":  {[][]entry{{file("a/b/c", "1")}}, "/a/b/c=1"},
		"a file replaced":              {[][]entry{{file("a", "1")}, {file("a", "2")}}, "/a=2"},
		"a file twice in one layer":    {[][]entry{{file("a", "1"), file("a", "2")}}, "/a=2"},
		"a folder by a file":           {[][]entry{{file("a/b", "1")}, {file("a", "2")}}, "/a=2"},
		"a file by a folder":           {[][]entry{{file("a", "1")}, {dir("a"), file("a/b", "2")}}, "/a/b=2"},
		"a link by a folder":           {[][]entry{{dir("x"), link("a", "x")}, {dir("a"), file("a/b", "2")}}, "/a/b=2 /x/"},
		"folders merge":                {[][]entry{{file("a/b", "1")}, {dir("a"), file("a/c", "2")}}, "/a/b=1 /a/c=2"},
		"a whiteout":                   {[][]entry{{file("a", "1"), file("b", "1")}, {file(".wh.a", "")}}, "/b=1"},
		"a whiteout of a folder":       {[][]entry{{file("a/b", "1")}, {file(".wh.a", "")}}, "/"},
		"a whiteout, then the same":    {[][]entry{{file("a", "1")}, {file(".wh.a", ""), file("a", "2")}}, "/a=2"},
		"a whiteout after the same":    {[][]entry{{file("a", "1")}, {file("a", "2"), file(".wh.a", "")}}, "/a=2"},
		"a whiteout of one's own":      {[][]entry{{file("a", "1"), file(".wh.a", "")}}, "/a=1"},
		"a whiteout of nothing":        {[][]entry{{file("b", "1")}, {file(".wh.a", "")}}, "/b=1"},
		"a whiteout of a new folder":   {[][]entry{{file("a/b", "1")}, {file("a/c", "2"), file(".wh.a", "")}}, "/a/c=2"},
		"an opaque folder":             {[][]entry{{file("a/b", "1"), file("a/d/e", "1")}, {dir("a"), file("a/.wh..wh..opq", ""), file("a/c", "2")}}, "/a/c=2"},
		"an opaque folder, mark last":  {[][]entry{{file("a/b", "1"), file("a/d/e", "1")}, {file("a/d/f", "2"), file("a/c", "2"), file("a/.wh..wh..opq", "")}}, "/a/c=2 /a/d/f=2"},
		"an opaque root":               {[][]entry{{file("a", "1")}, {file(".wh..wh..opq", ""), file("b", "2")}}, "/b=2"},
		"a whiteout, and back":         {[][]entry{{file("a", "1")}, {file(".wh.a", "")}, {file("a", "3")}}, "/a=3"},
		"files of aufs":                {[][]entry{{file(".wh..wh.aufs", ""), file(".wh..wh.plnk/1.2", "x"), file("a", "1")}}, "/a=1"},
		"a hard link":                  {[][]entry{{file("a", "1"), hard("b", "a")}}, "/a=1 /b=1"},
		"a hard link to a lower layer": {[][]entry{{file("a", "1")}, {hard("b", "/a")}}, "/a=1 /b=1"},
		"a hard link stays":            {[][]entry{{file("a", "1"), hard("b", "a")}, {file(".wh.a", "")}}, "/b=1"},
		"a hard link, then a whiteout": {[][]entry{{file("a", "1")}, {hard("b", "a"), file(".wh.a", "")}}, "/b=1"},
		"a hard link replaced":         {[][]entry{{file("a", "1"), hard("b", "a")}, {file("a", "2")}}, "/a=2 /b=1"},
		"a hard link to a link":        {[][]entry{{link("a", "x"), hard("b", "a")}}, "/a -> x /b -> x"},
		"through a link":               {[][]entry{{dir("usr/bin"), link("bin", "usr/bin")}, {file("bin/a", "1")}}, "/bin -> usr/bin /usr/bin/a=1"},
		"through an absolute link":     {[][]entry{{dir("usr/bin"), link("x/bin", "/usr/bin"), file("x/bin/a", "1")}}, "/usr/bin/a=1 /x/bin -> /usr/bin"},
		"through a link to be":         {[][]entry{{link("lib", "usr/lib"), file("lib/a", "1")}}, "/lib -> usr/lib /usr/lib/a=1"},
		"a link that leads out":        {[][]entry{{link("a", "../../etc/passwd")}}, "/a -> ../../etc/passwd"},
		"a device":                     {[][]entry{{file("b", "1"), {Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}}, {Header: tar.Header{Typeflag: tar.TypeFifo, Name: "p"}}}}, "/b=1"},
		"a device instead of a file":   {[][]entry{{file("b", "1")}, {{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "b"}}}}, "/"},
		"nothing":                      {[][]entry{{}}, "/"},
	} {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, pack(t, l...))
			}
			got, err := put(t, layers...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, strings.Join(list(t, got.Root), " ")); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
		})
	}
}

// TestAttributes: what a file is beside its content.
func TestAttributes(t *testing.T) {
	e := file("a", "1")
	e.Mode, e.Uid, e.Gid = 0o4755, 1000, 70_000
	e.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00", "SCHILY.xattr.user.x": "y", "SCHILY.xattr.trusted.overlay.opaque": "y",
		"SCHILY.xattr.security.selinux": "s", "comment": "c",
	}
	got, err := put(t, pack(t, e, hard("b", "a")))
	if err != nil {
		t.Fatal(err)
	}
	a := got.Root.Children["a"]
	if a.Mode != unix.S_IFREG|0o4755 || a.UID != 1000 || a.GID != 70_000 || a.Mtime != 1_600_000_000 || a != got.Root.Children["b"] {
		t.Errorf("the file is %+v", a)
	}
	if diff := cmp.Diff(map[string]string{"security.capability": "\x01\x00", "user.x": "y"}, a.Xattrs); diff != "" {
		t.Errorf("attributes, want -, got +\n%s", diff)
	}
}

// TestPacked: layers are plain, or packed with gzip (as eStargz is, in parts) or zstd.
func TestPacked(t *testing.T) {
	plain := pack(t, file("a", "1"), file("stargz.index.json", "toc"), file(".prefetch.landmark", ""))
	zip := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, err := w.Write(b)
		if err = errorsOf(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "skip"...)
	for name, blob := range map[string][]byte{
		"plain": plain, "gzip": zip(plain), "gzip in parts": append(zip(plain[:512]), zip(plain[512:])...),
		"zstd": z.EncodeAll(plain, nil), "zstd after what is skipped": append(skippable, z.EncodeAll(plain, nil)...),
	} {
		for _, estargz := range []bool{false, true} {
			f := flatten.New(spool(t), limits())
			if err := f.Add(t.Context(), flatten.Layer{Digest: digest(blob), DiffID: digest(plain), EStargz: estargz, Blob: bytes.NewReader(blob)}); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got, err := f.Finish()
			if want := map[bool]int{false: 3, true: 1}[estargz]; err != nil || len(got.Root.Children) != want {
				t.Errorf("%s, eStargz %v: %d files, want %d: %v", name, estargz, len(got.Root.Children), want, err)
			}
		}
	}
}

func errorsOf(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// hostile are archives that are refused, by what is wrong with them, with what the error
// names.
func hostile(t testing.TB) map[string]struct {
	layers [][]byte
	says   string
} {
	type archive = struct {
		layers [][]byte
		says   string
	}
	all := map[string]archive{}
	add := func(what, says string, entries ...entry) { all[what] = archive{[][]byte{pack(t, entries...)}, says} }
	raw := func(what, says string, layers ...[]byte) { all[what] = archive{layers, says} }
	typed := func(kind byte, name string) entry { return entry{Header: tar.Header{Typeflag: kind, Name: name}} }
	named := func(header func(h *tar.Header)) entry {
		e := file("victim", "")
		header(&e.Header)
		return e
	}

	for _, name := range []string{"..", "../victim", "a/../../victim", "/../victim", "./../victim", "a/..", "a/../b", "../../../../../../etc/cron.d/victim", ".wh...", "a/.wh..."} {
		if !strings.Contains(name, ".wh.") {
			add("name "+name, name, file(name, "x"))
		}
	}
	add("folder ..", "..", dir("../victim"))
	add("link named ..", "..", link("../victim", "x"))
	add("whiteout in ..", "../.wh.victim", file("../.wh.victim", ""))
	add("whiteout of ..", ".wh...", file(".wh...", ""))
	add("whiteout of .", ".wh..", file(".wh..", ""))
	add("whiteout without a name", ".wh.", file(".wh.", ""))
	add("device in ..", "..", typed(tar.TypeChar, "../victim"))

	add("hard link to ..", "victim", hard("victim", "../../etc/shadow"))
	add("hard link through a link that leads out", "victim", link("out", "../.."), hard("victim", "out/etc/shadow"))
	add("hard link to what is not there", "victim", hard("victim", "/etc/shadow"))
	add("hard link to itself", "victim", file("victim", "1"), hard("victim", "victim"))
	add("hard link to a folder", "victim", dir("d"), hard("victim", "d"))
	add("hard link to the root", "victim", hard("victim", "/"))
	add("hard link to nothing", "victim", hard("victim", "."))
	add("hard link to a hidden file", `"b"`, file("victim", "1"), hard("b", ".wh.x"), file("b", "1"))
	add("hard link in a circle of links", "victim", link("a", "b"), link("b", "a"), hard("victim", "a/x"))
	add("hard link of a name with control characters", "victim", hard("victim", "a\x1b[2J"))

	add("file through a link that leads out", "out/victim", link("out", "../.."), file("out/victim", "x"))
	add("file through a link that climbs far", "out/victim", link("out", strings.Repeat("../", 30)+"etc"), file("out/victim", "x"))
	add("file through two links that lead out", "b/victim", dir("d"), link("d/a", ".."), link("b", "d/a/.."), file("b/victim", "x"))
	add("folder through a link that leads out", "out/victim", link("out", ".."), dir("out/victim"))
	add("link through a link that leads out", "out/victim", link("out", ".."), link("out/victim", "x"))
	add("whiteout through a link that leads out", "out/.wh.victim", link("out", ".."), file("out/.wh.victim", ""))
	add("link to itself", "a/victim", link("a", "a"), file("a/victim", "x"))
	add("links in a circle", "a/victim", link("a", "b"), link("b", "c"), link("c", "a"), file("a/victim", "x"))
	add("a link that grows", "a/victim", link("a", "a/a"), file("a/victim", "x"))
	var chain []entry
	for n := range 45 {
		chain = append(chain, link(fmt.Sprint("l", n), fmt.Sprint("l", n+1)))
	}
	add("a chain of links", "l0/victim", append(chain, dir("l45"), file("l0/victim", "x"))...)
	add("file below a file", "a/victim", file("a", "1"), file("a/victim", "x"))
	raw("file below a file of a lower layer", "a/victim", pack(t, file("a", "1")), pack(t, file("a/victim", "x")))
	raw("through a link of a lower layer that leads out", "out/victim", pack(t, link("out", "../..")), pack(t, file("out/victim", "x")))

	add("empty link", "victim", link("victim", ""))
	add("long link", "victim", link("victim", strings.Repeat("a/", 2048)+"b"))
	add("link with control characters", "victim", link("victim", "a\nb"))
	for what, c := range map[string]string{"a newline": "\n", "an escape": "\x1b]0;x\x07", "a tab": "\t", "a delete": "\x7f", "a C1 control": "\u009b", "turned text": "\u202e"} {
		add("name with "+what, `victim`, file("victim"+c, "x"))
	}
	add("long name", "victim", file("victim"+strings.Repeat("x", 256), "x"))
	add("deep name", "victim", file(strings.Repeat("a/", 21)+"victim", "x"))
	add("deep through links", "victim", dir(strings.Repeat("a/", 19)), link("l", strings.Repeat("a/", 19)), file("l/b/c/d/victim", "x"))
	add("root is a file", "", file(".", "x"))

	add("negative owner", "victim", named(func(h *tar.Header) { h.Uid = -1; h.Format = tar.FormatGNU }))
	add("owner beyond the last", "victim", named(func(h *tar.Header) { h.Gid = 1 << 32 }))
	add("unknown type", "victim", typed('Z', "victim"))
	add("many attributes", "victim", named(func(h *tar.Header) {
		h.PAXRecords = map[string]string{}
		for n := range 200 {
			h.PAXRecords[fmt.Sprint("SCHILY.xattr.user.", n)] = "value"
		}
	}))
	add("a large attribute", "victim", named(func(h *tar.Header) {
		h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 2000)}
	}))
	add("a large attribute that is not kept", "victim", named(func(h *tar.Header) {
		h.PAXRecords = map[string]string{"SCHILY.xattr.other.x": strings.Repeat("x", 2000)}
	}))
	add("attribute with control characters", "victim", named(func(h *tar.Header) {
		h.PAXRecords = map[string]string{"SCHILY.xattr.user.\x1b": "x"}
	}))
	var many []entry
	for n := range 1001 {
		many = append(many, dir(fmt.Sprint("d", n)))
	}
	add("many entries", "d1000", many...)
	links := []entry{file("a", "1")}
	for n := range 60 {
		links = append(links, hard(fmt.Sprint("victim", n), "a"))
	}
	add("many names of one file", "victim", links...)
	add("much content", "victim", file("a", strings.Repeat("x", 600<<10)), file("victim", strings.Repeat("x", 600<<10)))
	var meta []entry
	for n := range 300 {
		meta = append(meta, link(fmt.Sprint("victim", n), strings.Repeat("a", 4000)))
	}
	add("many bytes of names", "victim", meta...)

	sized := func(size int64) []byte { // a header that promises a content which does not come
		b := pack(t, file("victim", ""))
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "victim", Size: size}); err != nil {
			t.Fatal(err)
		}
		return append(out.Bytes(), b[512:]...)
	}
	raw("a size of 8 EiB", "victim", sized(1<<62))
	raw("a size beyond what is left", "victim", sized(1<<20+1))
	raw("a size beyond the archive", "victim", sized(1<<20))
	raw("a sparse file of 1 TiB", "victim", sparse(t, "victim", 1<<40))
	raw("half an archive", "", pack(t, file("a", "1"), file("victim", strings.Repeat("x", 5000)))[:2000])
	raw("no archive", "", bytes.Repeat([]byte("no archive "), 200))
	return all
}

// sparse is an archive with a file that is one hole, as GNU tar writes it.
func sparse(t testing.TB, name string, size int64) []byte {
	t.Helper()
	content := fmt.Sprintf("1\n%d\n0\n", size)
	content += strings.Repeat("\x00", 512-len(content))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	records := fmt.Sprintf("GNU.sparse.major=1\n|GNU.sparse.minor=0\n|GNU.sparse.name=%s\n|GNU.sparse.realsize=%d\n", name, size)
	var pax string
	for _, r := range strings.Split(records, "|") {
		n := len(r) + 3
		if n > 99 {
			n++
		}
		pax += fmt.Sprintf("%d %s", n, r)
	}
	h := tar.Header{Typeflag: tar.TypeReg, Name: "x", Size: int64(len(pax))}
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	_, err := w.Write([]byte(pax))
	if err = errorsOf(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/" + name, Size: int64(len(content))})); err != nil {
		t.Fatal(err)
	}
	if _, err = w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := b.Bytes()
	out[156] = 'x' // the first header is that of the records, which the package writes for no caller
	sum := 0
	for i, c := range out[:512] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	copy(out[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return out
}

// TestHostile: each is refused before it does harm, by a name where it has one, and
// nothing appears beside the spool file.
func TestHostile(t *testing.T) {
	cases := hostile(t)
	if len(cases) < 60 {
		t.Errorf("%d archives, want 60", len(cases))
	}
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			f, err := os.Create(filepath.Join(dir, "spool"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			fl := flatten.New(f, limits())
			for _, l := range c.layers {
				if err = fl.Add(t.Context(), flatten.Layer{DiffID: digest(l), Blob: bytes.NewReader(l)}); err != nil {
					break
				}
			}
			if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want a refusal that names %q", err, c.says)
			}
			if err != nil && (strings.ContainsAny(err.Error(), "\x1b\n\x07") || len(err.Error()) > 2000) {
				t.Errorf("the error has %d bytes, or control characters: %q", len(err.Error()), err)
			}
			if info, err := f.Stat(); err != nil || info.Size() > 2<<20 {
				t.Errorf("the spool file has %d bytes: %v", info.Size(), err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
				t.Errorf("beside the spool file there are %v: %v", entries, err)
			}
		})
	}
}

// TestDisk: what the disk has no room for is refused before it is written, and is no fault
// of the image.
func TestDisk(t *testing.T) {
	l := limits()
	l.Disk = 100
	b := pack(t, file("a", strings.Repeat("x", 60)), file("b", strings.Repeat("x", 60)))
	err := flatten.New(spool(t), l).Add(t.Context(), flatten.Layer{DiffID: digest(b), Blob: bytes.NewReader(b)})
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("error %v, want unavailable, naming b", err)
	}
}

// TestDigests: a layer is read to its end and compared, also behind the archive's.
func TestDigests(t *testing.T) {
	plain := pack(t, file("a", "1"))
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(append(bytes.Clone(plain), "behind the end"...)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := func() []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := io.CopyN(w, zeros{}, 64<<20)
		if err = errorsOf(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	changed := bytes.Clone(plain)
	changed[512]++
	for name, l := range map[string]flatten.Layer{
		"a changed content":             {Digest: digest(plain), DiffID: digest(plain), Blob: bytes.NewReader(changed)},
		"another blob":                  {Digest: digest(changed), DiffID: digest(plain), Blob: bytes.NewReader(plain)},
		"something behind the end":      {Digest: digest(plain), DiffID: digest(plain), Blob: bytes.NewReader(append(bytes.Clone(plain), 1))},
		"something packed behind":       {Digest: digest(zipped.Bytes()), DiffID: digest(plain), Blob: bytes.NewReader(zipped.Bytes())},
		"something behind what is gzip": {DiffID: digest(plain), Blob: bytes.NewReader(append(zipped.Bytes(), "no gzip"...))},
		"half a gzip":                   {DiffID: digest(plain), Blob: bytes.NewReader(zipped.Bytes()[:40])},
		"a bomb behind the end":         {DiffID: digest(plain), Blob: bytes.NewReader(bomb)},
		"bzip2":                         {DiffID: digest(plain), Blob: strings.NewReader("BZh91AY&SY")},
	} {
		if err := flatten.New(spool(t), limits()).Add(t.Context(), l); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%s: error %v, want a refusal", name, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// FuzzLayers: whatever layers are, they end in a tree that can be written, or in an error,
// and take no more than the bounds.
func FuzzLayers(f *testing.F) {
	for _, c := range hostile(f) {
		f.Add(c.layers[0], []byte{})
	}
	f.Add(pack(f, dir("a"), file("a/b", "1"), link("l", "a"), hard("l/c", "a/b")), pack(f, file(".wh.a", ""), file("l/.wh..wh..opq", "")))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		fl := flatten.New(spool(t), limits())
		for _, l := range [][]byte{lower, upper} {
			if err := fl.Add(t.Context(), flatten.Layer{DiffID: digest(l), Blob: bytes.NewReader(l)}); err != nil {
				return
			}
		}
		got, err := fl.Finish()
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if err := erofs.Write(t.Context(), out, got.Root); err != nil {
			t.Fatal(err)
		}
		if info, err := out.Stat(); err != nil || info.Size() > 32<<20 {
			t.Errorf("an image of %v bytes: %v", info, err)
		}
	})
}
