package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mvm/internal/image/ext4"
)

// made is a file system that mkfs.ext4 makes of a folder with many files in etc/x.
func made(t testing.TB, args ...string) []byte {
	t.Helper()
	tree, img := t.TempDir(), filepath.Join(t.TempDir(), "fs")
	dir := filepath.Join(tree, "etc/x")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for n := range 300 { // more than a block of names
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d-%s.json", n, strings.Repeat("n", 40))), fmt.Appendf(nil, "content of %d", n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("0123456789abcdef"), 10_000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("large", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-q", "-F"}, append(args, "-d", tree, img, "8M")...)
	if out, err := exec.Command("mkfs.ext4", args...).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4 %q: %v: %s", args, err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func suffix(s string) func(string) bool {
	return func(name string) bool { return strings.HasSuffix(name, s) }
}

func TestReadsWhatMkfsMakes(t *testing.T) {
	for _, args := range [][]string{nil, {"-b", "1024"}, {"-b", "4096"}, {"-O", "^64bit"}, {"-I", "128"}, {"-O", "^metadata_csum"}, {"-G", "1"}} {
		f, err := ext4.Open(bytes.NewReader(made(t, args...)))
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		got, err := f.Files("/etc/x", suffix(".json"), 1000, 4096)
		if err != nil || len(got) != 300 {
			t.Fatalf("%q: %d files, %v", args, len(got), err)
		}
		for name, b := range got {
			n, _, _ := strings.Cut(name, "-")
			if want := "content of " + n; string(b) != want {
				t.Errorf("%q: %s has %q", args, name, b)
			}
		}
		if got, err := f.Files("etc/x", suffix("large"), 1, 100_000); err != nil || !bytes.Equal(got["large"], bytes.Repeat([]byte("0123456789abcdef"), 6250)) {
			t.Errorf("%q: the large file has %d bytes, %v", args, len(got["large"]), err)
		}
		if _, err := f.Files("etc/nowhere", suffix(""), 1, 1); !errors.Is(err, ext4.ErrNotThere) {
			t.Errorf("%q: a folder that is not there: %v", args, err)
		}
		if _, err := f.Files("etc/x", suffix("link"), 1, 1); err == nil {
			t.Errorf("%q: a link was read", args)
		}
	}
}

func TestRefusesOthers(t *testing.T) {
	for name, b := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 1<<20), "without extents": made(t, "-O", "^extents,^64bit"),
		"with inline data": made(t, "-O", "inline_data")} {
		f, err := ext4.Open(bytes.NewReader(b))
		if err == nil {
			_, err = f.Files("etc/x", suffix(""), 1, 1)
		}
		if err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

// FuzzFiles: whatever a file system says of itself, reading it ends and does not fail badly.
func FuzzFiles(f *testing.F) {
	whole := made(f, "-b", "1024", "-N", "512")
	f.Add(uint32(1024+24), uint32(3))
	f.Add(uint32(2*1024+8), uint32(0xffffffff))
	f.Fuzz(func(t *testing.T, at, value uint32) {
		b := bytes.Clone(whole)
		if int(at)+4 <= len(b) {
			b[at], b[at+1], b[at+2], b[at+3] = byte(value), byte(value>>8), byte(value>>16), byte(value>>24)
		}
		if fs, err := ext4.Open(bytes.NewReader(b)); err == nil {
			_, _ = fs.Files("etc/x", suffix(".json"), 65, 1<<16)
		}
	})
}
