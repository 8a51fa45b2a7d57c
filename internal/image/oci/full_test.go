package oci_test

import (
	"archive/tar"
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/oci"
	"mvm/internal/testenv"
)

// TestFullDisk: a build that the disk has no room for fails as such, and leaves nothing.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
	dir := t.TempDir()
	if err := unix.Mount("disk", dir, "tmpfs", 0, "size=320m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	s, err := image.Open(filepath.Join(dir, "images"), oci.New(oci.Options{Base: testenv.Base(t)}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for what, size := range map[string]int{"layers that are too large": 100 << 20, "files that are too large": 40 << 20} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), size)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		blob := b.Bytes()
		saved := saveAs(t, map[string]any{"Cmd": []string{"/large"}}, blob)
		if size < 50<<20 {
			layout := filepath.Join(t.TempDir(), "layout") // skopeo packs it
			if _, ok := toLayoutAt(t, saved, layout); !ok {
				t.Fatal("skopeo can't read it")
			}
			saved = layout
		}
		if _, err := s.Build(t.Context(), image.Request{Ref: oci.Archive + saved}, nil); !mvm.IsKind(err, mvm.KindUnavailable) {
			t.Errorf("%s: error %v, want unavailable", what, err)
		}
		if left, err := os.ReadDir(filepath.Join(dir, "images", "tmp")); err != nil || len(left) != 0 {
			t.Errorf("%s: left in the store: %v %v", what, left, err)
		}
	}
}
