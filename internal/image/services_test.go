package image_test

import (
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	erofs "github.com/erofs/go-erofs"
	"github.com/klauspost/compress/zstd"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/cpio"
)

const (
	goodService = `{"name":"app","command":["/bin/app"],"ready":{"tcp":"127.0.0.1:80"}}`
	badService  = `{"name":"app","command":["/bin/app"],"ready":{"tpc":"127.0.0.1:80"}}`
)

// archive is a cpio archive with a service definition of that text.
func archive(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	for _, err := range []error{w.MkdirAll("etc/mvm/services"), w.Bytes("init", 0o755, strings.Repeat("x", 5000)),
		w.Bytes("etc/mvm/services/app.json", 0o644, text), w.Bytes("etc/mvm/services/README", 0o644, "{"), w.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func packed(t *testing.T, how string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := interface {
		Write([]byte) (int, error)
		Close() error
	}(gzip.NewWriter(&out))
	if how == "zstd" {
		z, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// root is an erofs with a service definition of that text.
func root(t *testing.T, text string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.Create(f, erofs.WithBuildTime(0, 0))
	err = w.CopyFrom(fstest.MapFS{"etc/mvm/services/app.json": {Data: []byte(text), Mode: 0o644, ModTime: time.Unix(0, 0)}})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ext4 is one with a service definition of that text.
func ext4(t *testing.T, text string) []byte {
	t.Helper()
	tree, img := t.TempDir(), filepath.Join(t.TempDir(), "root")
	dir := filepath.Join(tree, "etc/mvm/services")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-d", tree, img, "2M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestServiceDefinitionsAreCheckedWhenBuilt: an image whose guest would not start a service is
// refused when it is built, wherever the definition can be read.
func TestServiceDefinitionsAreCheckedWhenBuilt(t *testing.T) {
	twice := func(first, second string) []byte {
		return append(append(archive(t, first), make([]byte, 1024)...), archive(t, second)...)
	}
	for _, c := range []struct {
		name    string
		initrd  []byte
		root    []byte
		refused bool
	}{
		{"an initrd", archive(t, badService), nil, true},
		{"a good one", archive(t, goodService), nil, false},
		{"packed with gzip", packed(t, "gzip", archive(t, badService)), nil, true},
		{"packed with zstd", packed(t, "zstd", archive(t, badService)), nil, true},
		{"a good one that is packed", packed(t, "zstd", archive(t, goodService)), nil, false},
		{"the second archive", twice(goodService, badService), nil, true},
		{"mended by the second", twice(badService, goodService), nil, false},
		{"behind a first archive, packed", append(archive(t, goodService), packed(t, "gzip", archive(t, badService))...), nil, true},
		{"an erofs", archive(t, goodService), root(t, badService), true},
		{"a good erofs", archive(t, badService), root(t, goodService), false},
		{"an ext4", archive(t, goodService), ext4(t, badService), true},
		{"a good ext4", archive(t, badService), ext4(t, goodService), false},
		{"no ext4", archive(t, goodService), []byte("ext4: no"), false},
		{"not JSON", archive(t, "{"), nil, true},
		{"too large", archive(t, strings.Repeat(" ", 65<<10)+goodService), nil, true},
		{"what can't be read", []byte("no archive"), nil, false},
		{"half an archive", archive(t, badService)[:3000], nil, false},
		{"no erofs", archive(t, goodService), bytes.Repeat([]byte{1}, 8192), false},
	} {
		files := map[string]string{"vmlinux": "kernel", "initrd": string(c.initrd),
			"image.json": `{"version":1,"kernel":{"name":"vmlinux"},"initrd":{"name":"initrd"}}`}
		if c.root != nil {
			files["root"] = string(c.root)
			files["image.json"] = `{"version":1,"kernel":{"name":"vmlinux"},"initrd":{"name":"initrd"},"rootfs":{"name":"root"},"rootfs_type":"` + strings.Fields(c.name)[len(strings.Fields(c.name))-1] + `"}`
		}
		s := open(t, t.TempDir(), image.DirBuilder{})
		_, err := s.Build(t.Context(), image.Request{Ref: "dir:" + folder(t, files)}, func(mvm.Progress) {})
		switch {
		case c.refused && (!mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "service app")):
			t.Errorf("%s: %v, want that service app is refused", c.name, err)
		case !c.refused && err != nil:
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
