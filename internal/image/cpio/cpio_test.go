package cpio_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mvm/internal/image/cpio"
)

// archive writes one entry of every kind.
func archive(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := cpio.NewWriter(&buf)
	for _, err := range []error{
		w.MkdirAll("/etc/mvm/services"),
		w.Dir("tmp", 0o1777),
		w.Dir("tmp", 0o700), // there already
		w.Bytes("etc/hosts", 0o644, "127.0.0.1 localhost\n"),
		w.Bytes("etc/empty", 0o600, ""),
		w.File("init", 0o755, 5, strings.NewReader("hello, and what is beyond the size")),
		w.Symlink("bin", "usr/bin"),
		w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

func TestArchiveUnpacks(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("the cpio command, which reads the archive here, is not installed")
	}
	dir := t.TempDir()
	cmd := exec.Command("cpio", "--extract", "--preserve-modification-time", "--no-absolute-filenames")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if rel == "." {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		got[rel] = info.Mode().String()
		switch {
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			got[rel] += " " + string(b)
			return err
		case d.Type() == os.ModeSymlink:
			target, err := os.Readlink(path)
			got[rel] += " " + target
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"etc": "drwxr-xr-x", "etc/mvm": "drwxr-xr-x", "etc/mvm/services": "drwxr-xr-x",
		"tmp":       "dtrwxrwxrwx",
		"etc/hosts": "-rw-r--r-- 127.0.0.1 localhost\n",
		"etc/empty": "-rw------- ",
		"init":      "-rwxr-xr-x hello",
		"bin":       "Lrwxrwxrwx usr/bin",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unpacked tree (-want +got):\n%s", diff)
	}
}

func TestArchiveIsReproducible(t *testing.T) {
	a, b := archive(t), archive(t)
	if !bytes.Equal(a, b) {
		t.Error("the same calls gave different bytes")
	}
	if len(a)%512 != 0 {
		t.Errorf("archive has %d bytes, not a multiple of 512", len(a))
	}
}

func TestWriterRefuses(t *testing.T) {
	tests := map[string]struct {
		do   func(w *cpio.Writer) error
		want string
	}{
		"no parent": {func(w *cpio.Writer) error { return w.Bytes("a/b", 0o644, "") }, "folder was not added"},
		"twice": {func(w *cpio.Writer) error {
			return errors.Join(w.Bytes("a", 0o644, ""), w.Symlink("/a", "b"))
		}, "twice"},
		"end mark": {func(w *cpio.Writer) error { return w.Bytes("TRAILER!!!", 0o644, "") }, "reserved"},
		"too large": {func(w *cpio.Writer) error {
			return w.File("a", 0o644, 1<<32, strings.NewReader(""))
		}, "do not fit"},
		"short content":  {func(w *cpio.Writer) error { return w.File("a", 0o644, 9, strings.NewReader("abc")) }, "EOF"},
		"NUL in a name":  {func(w *cpio.Writer) error { return w.Bytes("a\x00b", 0o644, "") }, "not allowed"},
		"after closing":  {func(w *cpio.Writer) error { return errors.Join(w.Close(), w.Bytes("a", 0o644, "")) }, "closed"},
		"dots stay here": {func(w *cpio.Writer) error { return w.Bytes("../../a/b", 0o644, "") }, `"a/b"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := cpio.NewWriter(io.Discard)
			err := tt.do(w)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want one with %q", err, tt.want)
			}
			if later := w.Bytes("later", 0o644, ""); later == nil {
				t.Error("a later write succeeded, want the first error to stay")
			}
		})
	}
}
