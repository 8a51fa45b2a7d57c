package filecopy_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm/internal/filecopy"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// sent is what Send makes of the path, and what it left out.
func sent(t *testing.T, path string, follow bool) (stream []byte, skipped []string) {
	t.Helper()
	var b bytes.Buffer
	must(t, filecopy.Send(&b, filecopy.Source{Path: path, Follow: follow, Skipped: func(p, why string) {
		rel, _ := filepath.Rel(path, p)
		skipped = append(skipped, rel+": "+why)
	}}))
	return b.Bytes(), skipped
}

// tree lists what is below the folder: mode, size or target, and content.
func tree(t *testing.T, dir string) (all []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		line := fmt.Sprintf("%s %s", rel, st.Mode())
		switch {
		case st.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			line += " -> " + target
		case st.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %.20q %d", st.Size(), b, st.ModTime().Unix())
		case rel != ".":
			line += fmt.Sprint(" ", st.ModTime().Unix())
		}
		all = append(all, line)
		return nil
	}))
	return all
}

// sample makes a folder with everything that a copy keeps.
func sample(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	old := time.Unix(1e9, 0)
	must(t, os.MkdirAll(dir+"/sub/empty", 0o755), os.WriteFile(dir+"/a", []byte("ay"), 0o640), os.WriteFile(dir+"/sub/none", nil, 0o600),
		os.WriteFile(dir+"/run", []byte("#!/bin/sh\n"), 0o755), os.Symlink("/etc/passwd", dir+"/out"), os.Symlink("sub", dir+"/in"),
		os.WriteFile(dir+"/big", bytes.Repeat([]byte("0123456789abcdef"), 40_000), 0o444),
		os.WriteFile(dir+"/ünïcode \n name", []byte("x"), 0o644),
		os.Chtimes(dir+"/a", old, old), os.Chmod(dir+"/sub/empty", 0o511), os.Chtimes(dir+"/sub", old, old))
	return dir
}

func TestATreeArrivesAsItIs(t *testing.T) {
	src, dst := sample(t), filepath.Join(t.TempDir(), "dst")
	stream, skipped := sent(t, src, false)
	got, err := filecopy.Receive(bytes.NewReader(stream), filecopy.Target{Path: dst, Name: "src"})
	must(t, err)
	if want := tree(t, src); !slices.Equal(tree(t, dst), want) || len(skipped) > 0 {
		t.Errorf("got\n%s\nwant\n%s\nskipped %q", strings.Join(tree(t, dst), "\n"), strings.Join(want, "\n"), skipped)
	}
	if got.Bytes != 640_000+2+10+1 || got.Files != 10 {
		t.Errorf("counted %+v", got)
	}
}

// TestHolesStay copies a file of 1 GiB with 8 KiB in it.
func TestHolesStay(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(dir + "/sparse")
	must(t, err, f.Truncate(1<<30))
	_, err1 := f.WriteAt(bytes.Repeat([]byte("x"), 4096), 512<<20)
	_, err2 := f.WriteAt(bytes.Repeat([]byte("y"), 4096), 1<<30-4096)
	must(t, err1, err2, f.Close())
	stream, _ := sent(t, dir+"/sparse", false)
	if len(stream) > 64<<10 {
		t.Errorf("%d bytes were sent of 8 KiB of data", len(stream))
	}
	_, err = filecopy.Receive(bytes.NewReader(stream), filecopy.Target{Path: dir + "/copy"})
	must(t, err)
	var st syscall.Stat_t
	must(t, syscall.Stat(dir+"/copy", &st))
	if st.Size != 1<<30 || st.Blocks*512 > 1<<20 {
		t.Errorf("the copy has %d bytes and holds %d", st.Size, st.Blocks*512)
	}
	b := make([]byte, 3)
	c, err := os.Open(dir + "/copy")
	must(t, err)
	defer c.Close()
	for at, want := range map[int64]string{512 << 20: "xxx", 1<<30 - 3: "yyy", 0: "\x00\x00\x00"} {
		if _, err := c.ReadAt(b, at); err != nil || string(b) != want {
			t.Errorf("at %d: %q, %v", at, b, err)
		}
	}
}

// TestWhereItGoes is the rules of docker cp.
func TestWhereItGoes(t *testing.T) {
	for name, tc := range map[string]struct{ src, as, dst, want string }{
		"file into folder":          {"f", "f", "dir", "dir/f"},
		"file to new name":          {"f", "f", "new", "new"},
		"file over file":            {"f", "f", "file", "file"},
		"file through a link":       {"f", "f", "link", "file"},
		"file to nowhere":           {"f", "f", "no/new", "!file does not exist|no such file"},
		"file to missing folder":    {"f", "f", "new/", "!file does not exist"},
		"file below a file":         {"f", "f", "file/x", "!not a directory"},
		"folder into folder":        {"d", "d", "dir", "dir/d/g"},
		"contents into folder":      {"d", "", "dir", "dir/g"},
		"folder to new name":        {"d", "d", "new", "new/g"},
		"folder to new name, slash": {"d", "d", "new/", "new/g"},
		"contents to new name":      {"d", "", "new", "new/g"},
		"folder over file":          {"d", "d", "file", "!is not a folder"},
		"folder over file below":    {"d", "g", "dir2", "!is not a folder"},
		"file over folder":          {"f", "sub", "dir2", "!is a folder"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(dir+"/f", []byte("new"), 0o644), os.MkdirAll(dir+"/d", 0o755), os.WriteFile(dir+"/d/g", []byte("new"), 0o644),
				os.MkdirAll(dir+"/dir", 0o755), os.MkdirAll(dir+"/dir2/sub", 0o755), os.WriteFile(dir+"/dir2/g", nil, 0o644),
				os.WriteFile(dir+"/file", []byte("old"), 0o644), os.Symlink("file", dir+"/link"))
			stream, _ := sent(t, dir+"/"+tc.src, false)
			_, err := filecopy.Receive(bytes.NewReader(stream), filecopy.Target{Path: dir + "/" + tc.dst, Name: tc.as})
			if refused, ok := strings.CutPrefix(tc.want, "!"); ok {
				if err == nil || !slices.ContainsFunc(strings.Split(refused, "|"), func(s string) bool { return strings.Contains(err.Error(), s) }) {
					t.Errorf("got %v, want %s", err, refused)
				}
			} else if b, rerr := os.ReadFile(dir + "/" + tc.want); err != nil || rerr != nil || string(b) != "new" {
				t.Errorf("%v; %s has %q, %v", err, tc.want, b, rerr)
			}
			wantNoLeftovers(t, dir)
		})
	}
}

func wantNoLeftovers(t *testing.T, dir string) {
	t.Helper()
	for _, line := range tree(t, dir) {
		if strings.Contains(line, ".mvm-cp-") {
			t.Errorf("left behind: %s", line)
		}
	}
}

// TestCutOffAnywhere: a stream may end at any byte. No file has its name without its
// content then.
func TestCutOffAnywhere(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/src/sub", 0o755), os.WriteFile(dir+"/src/a", bytes.Repeat([]byte("a"), 300), 0o644),
		os.WriteFile(dir+"/src/sub/b", []byte("bee"), 0o644), os.Symlink("a", dir+"/src/l"))
	stream, _ := sent(t, dir+"/src", false)
	want := map[string]int64{"a": 300, "b": 3}
	for n := 0; n < len(stream); n += 3 {
		dst := fmt.Sprintf("%s/dst%d", dir, n)
		if _, err := filecopy.Receive(bytes.NewReader(stream[:n]), filecopy.Target{Path: dst, Name: "src"}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut off at %d of %d: %v", n, len(stream), err)
		}
		if _, err := os.Stat(dst); err != nil {
			continue
		}
		must(t, filepath.WalkDir(dst, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if st, serr := d.Info(); serr != nil || st.Size() != want[d.Name()] {
					t.Errorf("cut off at %d: %s has %d bytes", n, p, st.Size())
				}
			}
			return err
		}))
		must(t, os.RemoveAll(dst))
	}
}

// TestOtherKindsAreLeftOut: a device or pipe neither hangs the copy nor comes into being.
func TestOtherKindsAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	must(t, syscall.Mkfifo(dir+"/pipe", 0o644), os.WriteFile(dir+"/file", nil, 0o644))
	stream, skipped := sent(t, dir, false)
	if want := []string{"pipe: it is a named pipe"}; !slices.Equal(skipped, want) {
		t.Errorf("left out %q, want %q", skipped, want)
	}
	dst := t.TempDir()
	_, err := filecopy.Receive(bytes.NewReader(stream), filecopy.Target{Path: dst})
	if all := tree(t, dst); err != nil || len(all) != 2 {
		t.Errorf("%v, %q", err, all)
	}
	if err := filecopy.Send(io.Discard, filecopy.Source{Path: dir + "/pipe"}); err == nil || !strings.Contains(err.Error(), "named pipe") {
		t.Errorf("a pipe alone: %v", err)
	}
	proc, _ := sent(t, "/proc/self/status", false)
	_, err = filecopy.Receive(bytes.NewReader(proc), filecopy.Target{Path: dst + "/status"})
	if b, _ := os.ReadFile(dst + "/status"); err != nil || !bytes.Contains(b, []byte("Pid:")) {
		t.Errorf("a file that says it is empty: %v, %q", err, b)
	}
}

func TestFollowIsForTheFirstOnly(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/real", 0o755), os.Symlink("real", dir+"/link"), os.Symlink("/etc", dir+"/real/below"))
	for follow, want := range map[bool]string{true: "[. drwxr-xr-x below Lrwxrwxrwx -> /etc]", false: "[. Lrwxrwxrwx -> real]"} {
		stream, _ := sent(t, dir+"/link", follow)
		dst := fmt.Sprintf("%s/%v", dir, follow)
		_, err := filecopy.Receive(bytes.NewReader(stream), filecopy.Target{Path: dst})
		if got := fmt.Sprint(tree(t, dst)); err != nil || got != want {
			t.Errorf("follow %v: %s, %v, want %s", follow, got, err, want)
		}
	}
}

func TestOwnersAndSetuid(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners are root's to give")
	}
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/f", nil, 0o755), os.Chown(dir+"/f", 12345, 23456), syscall.Chmod(dir+"/f", 0o6755))
	stream, _ := sent(t, dir+"/f", false)
	for name, tc := range map[string]struct {
		t    filecopy.Target
		want string
	}{
		"receiver's":          {filecopy.Target{}, "0 0 755"},
		"kept, from a guest":  {filecopy.Target{Owners: true}, "12345 23456 755"},
		"kept, into a guest":  {filecopy.Target{Owners: true, Setuid: true}, "12345 23456 6755"},
		"not kept, no setuid": {filecopy.Target{Setuid: true}, "0 0 755"},
		"somebody's":          {filecopy.Target{Owner: &filecopy.Owner{UID: 7, GID: 8}, Setuid: true}, "7 8 755"},
	} {
		tc.t.Path = dir + "/" + name
		_, err := filecopy.Receive(bytes.NewReader(stream), tc.t)
		var st syscall.Stat_t
		must(t, err, syscall.Stat(tc.t.Path, &st))
		if got := fmt.Sprintf("%d %d %o", st.Uid, st.Gid, st.Mode&0o7777); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// hostile builds streams that no sender makes.
type hostile struct{ b []byte }

func stream() *hostile { return &hostile{[]byte("MVMCOPY1")} }

func (h *hostile) entry(kind byte, json string) *hostile {
	h.b = append(binary.BigEndian.AppendUint32(append(h.b, kind), uint32(len(json))), json...)
	return h
}

func (h *hostile) file(name, data string) *hostile {
	h.entry('f', fmt.Sprintf(`{"name":%q,"mode":420}`, b64(name)))
	if data != "" {
		h.chunk(0, data)
	}
	return h.size(uint64(len(data)))
}

func (h *hostile) chunk(at uint64, data string) *hostile {
	h.b = binary.BigEndian.AppendUint64(append(h.b, 'c'), at)
	h.b = append(binary.BigEndian.AppendUint32(h.b, uint32(len(data))), data...)
	return h
}

func (h *hostile) size(n uint64) *hostile {
	h.b = binary.BigEndian.AppendUint64(append(h.b, 'e'), n)
	return h
}

func (h *hostile) folder(name string) *hostile {
	return h.entry('d', fmt.Sprintf(`{"name":%q,"mode":493}`, b64(name)))
}

func (h *hostile) link(name, to string) *hostile {
	return h.entry('l', fmt.Sprintf(`{"name":%q,"link":%q}`, b64(name), b64(to)))
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func (h *hostile) raw(s string) *hostile { h.b = append(h.b, s...); return h }

// TestAHostileSenderStaysInside: whatever comes, nothing outside the target changes, no
// link is followed, and only files, folders and links come into being.
func TestAHostileSenderStaysInside(t *testing.T) {
	deep := stream()
	for range 5000 {
		deep.folder("d")
	}
	for name, tc := range map[string]struct {
		s    *hostile
		want string // part of the error; empty: it is well
	}{
		"parent":                  {stream().folder("").file("..", "x"), "no name"},
		"dot":                     {stream().folder("").file(".", "x"), "no name"},
		"no name":                 {stream().folder("").file("", "x"), "no name"},
		"slash":                   {stream().folder("").file("../victim", "x"), "no name"},
		"absolute":                {stream().folder("").file("/tmp/victim", "x"), "no name"},
		"NUL":                     {stream().folder("").file("a\x00b", ""), "no name"},
		"long name":               {stream().folder("").file(strings.Repeat("n", 256), "x"), "no name"},
		"folder over link out":    {stream().folder("").link("l", "..").folder("l").file("victim", "x").raw("uuz"), "is not a folder"},
		"folder over link in":     {stream().folder("").folder("d").raw("u").link("l", "d").folder("l").raw("uuz"), "is not a folder"},
		"file over link out":      {stream().folder("").link("l", "../victim").file("l", "x").raw("uz"), ""},
		"first is a link":         {stream().link("", "../victim").raw("z"), ""},
		"name of the first":       {stream().folder("../../victim").raw("uz"), ""},
		"up too often":            {stream().folder("").raw("uu"), "where the end should be"},
		"deep":                    {deep, "folders in each other"},
		"device":                  {stream().folder("").entry('b', `{"name":"c2Rh","mode":25008}`), "unknown"},
		"a device's mode":         {stream().folder("").entry('f', `{"name":"Zg==","mode":25014}`).size(0).raw("uz"), ""},
		"link without target":     {stream().folder("").link("l", ""), "no target"},
		"long target":             {stream().folder("").link("l", strings.Repeat("x", 4096)), "no target"},
		"long header":             {stream().raw("f\xff\xff\xff\xff"), "more than"},
		"no JSON":                 {stream().entry('f', "{"), "header"},
		"long chunk":              {stream().entry('f', "{}").raw("c\x00\x00\x00\x00\x00\x00\x00\x00\x7f\xff\xff\xff"), "more than"},
		"chunk far away":          {stream().entry('f', "{}").chunk(1<<63, "x"), "data at"},
		"chunks in disorder":      {stream().entry('f', "{}").chunk(10, "xx").chunk(5, "y"), "data at"},
		"size before its data":    {stream().entry('f', "{}").chunk(10, "xx").size(3), "data at"},
		"immense size":            {stream().entry('f', "{}").size(1 << 62), "file too large"},
		"folder in a file":        {stream().entry('f', "{}").folder("d"), "record"},
		"other magic":             {&hostile{[]byte("USTAR000")}, "uses another copy format"},
		"more after the end":      {stream().file("", "x").raw("zffff"), ""},
		"the same name twice":     {stream().folder("").file("a", "one").file("a", "two").raw("uz"), ""},
		"folder where a file was": {stream().folder("").file("a", "one").folder("a"), "is not a folder"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Mkdir(dir+"/in", 0o755), os.WriteFile(dir+"/victim", []byte("whole"), 0o600))
			_, err := filecopy.Receive(bytes.NewReader(tc.s.b), filecopy.Target{Path: dir + "/in/dst", Name: "src"})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			outside, rerr := os.ReadDir(dir)
			if b, _ := os.ReadFile(dir + "/victim"); string(b) != "whole" || len(outside) != 2 || rerr != nil {
				t.Errorf("outside: %v, %q, %v", outside, b, rerr)
			}
			must(t, filepath.WalkDir(dir+"/in", func(p string, d fs.DirEntry, err error) error {
				if k := d.Type(); !k.IsRegular() && !k.IsDir() && k != fs.ModeSymlink {
					t.Errorf("%s is a %s", p, k)
				}
				if strings.HasPrefix(d.Name(), ".mvm-cp-") {
					t.Errorf("left behind: %s", p)
				}
				return err
			}))
		})
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(stream().folder("").file("a", "one").link("l", "..").folder("d").raw("uuz").b)
	f.Add(stream().entry('f', "{}").chunk(10, "xx").size(12).raw("z").b)
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.Mkdir(dir+"/in", 0o755); err != nil {
			t.Fatal(err)
		}
		_, _ = filecopy.Receive(bytes.NewReader(b), filecopy.Target{Path: dir + "/in/dst", Name: "src"})
		if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
			t.Fatalf("outside: %v, %v", all, err)
		}
	})
}

// TestNamesThatAreNoText: names and targets arrive as the bytes that they are.
func TestNamesThatAreNoText(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/src", 0o755), os.WriteFile(dir+"/src/a\xff", []byte("one"), 0o644),
		os.WriteFile(dir+"/src/a\xfe", []byte("two"), 0o644), os.Symlink("a\xff", dir+"/src/l\xfd"))
	var b bytes.Buffer
	must(t, filecopy.Send(&b, filecopy.Source{Path: dir + "/src"}))
	_, err := filecopy.Receive(&b, filecopy.Target{Path: dir + "/dst", Name: "src"})
	must(t, err)
	for name, want := range map[string]string{"a\xff": "one", "a\xfe": "two", "l\xfd": "one"} {
		if got, err := os.ReadFile(dir + "/dst/" + name); err != nil || string(got) != want {
			t.Errorf("%q is %q, %v; want %q", name, got, err, want)
		}
	}
}
