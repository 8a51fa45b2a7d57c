package oci_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mvm/internal/image/oci"
)

// TestSameTree: of images that nobody here wrote, the root filesystem is what umoci makes
// of them: names, types, permissions, owners, times, contents, links and attributes. It is
// hardly larger than their content, the same twice, and clean.
func TestSameTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts, and makes files of others")
	}
	archives, err := filepath.Glob(filepath.Join(module(t, "github.com/wagoodman/dive@v0.13.1"), ".data/*.tar"))
	if err != nil || len(archives) < 8 {
		t.Fatalf("%d archives of dive: %v", len(archives), err)
	}
	registry := module(t, "github.com/google/go-containerregistry@v0.22.1")
	for _, name := range []string{"mutate/testdata/whiteout_image.tar", "mutate/testdata/whiteout_dir.tar", "mutate/testdata/overwritten_file.tar", "tarball/testdata/hello-world-v25.tar", "tarball/testdata/test_image_1.tar", "tarball/testdata/test_link.tar"} {
		archives = append(archives, filepath.Join(registry, "pkg/v1", name))
	}
	compared := 0
	for _, a := range archives {
		t.Run(filepath.Base(a), func(t *testing.T) {
			layout, ok := toLayout(t, a)
			if !ok {
				return
			}
			arch := "amd64"
			if _, err := oci.Unpack(t.Context(), a, arch, filepath.Join(t.TempDir(), "image")); err != nil && strings.Contains(err.Error(), "arm64") {
				arch = "arm64"
			}
			root, err := umoci(t, layout)
			if err != nil && strings.Contains(err.Error(), "mediatype") { // zstd
				t.Log(err)
				return
			}
			if err != nil {
				if _, err := oci.Unpack(t.Context(), a, arch, filepath.Join(t.TempDir(), "image")); err == nil {
					t.Errorf("ours takes it, %v", err)
				}
				return
			}
			same(t, root, arch, a, layout)
			compared++
		})
	}
	if compared < 10 {
		t.Errorf("%d images were compared, want 10", compared)
	}
}

// toLayout has skopeo make an OCI layout of an archive, whatever it is. It reports false for one that skopeo can't read.
func toLayout(t *testing.T, archive string) (layout string, ok bool) {
	t.Helper()
	return toLayoutAt(t, archive, t.TempDir())
}

func toLayoutAt(t *testing.T, archive, layout string) (string, bool) {
	t.Helper()
	var said []byte
	for _, kind := range []string{"oci-archive:", "docker-archive:"} {
		out, err := exec.Command("skopeo", "--insecure-policy", "copy", kind+archive, "oci:"+layout+":x").CombinedOutput()
		if err == nil {
			return layout, true
		}
		said = append(said, out...)
	}
	t.Logf("skopeo can't read it, so there is nothing to compare with: %.600s", said)
	return "", false
}

// umoci unpacks the image of the layout and returns its root.
func umoci(t *testing.T, layout string) (string, error) {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle")
	out, err := exec.Command("umoci", "unpack", "--image", layout+":x", bundle).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("umoci: %w\n%s", err, out)
	}
	return filepath.Join(bundle, "rootfs"), err
}

// TestMadeByUmoci: an image with what umoci writes: hard links, attributes, whiteouts, files
// of others, through two layers.
func TestMadeByUmoci(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts, and makes files of others")
	}
	layout := filepath.Join(t.TempDir(), "layout")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("umoci", args...).CombinedOutput(); err != nil {
			t.Fatalf("umoci %v: %v\n%s", args, err, out)
		}
	}
	run("init", "--layout", layout)
	run("new", "--image", layout+":x")
	for n, script := range []string{
		"mkdir -p usr/bin etc/deep/er var; ln -s usr/bin bin; head -c 300000 /dev/urandom > bin/tool; ln bin/tool bin/again; ln bin/tool etc/tool" +
			"; setcap cap_net_bind_service+ep bin/tool; echo 1 > etc/deep/er/f; echo 2 > etc/deep/g; chown 1000:70000 etc/deep/g; truncate -s 3M var/hole; mkfifo var/pipe",
		"rm -r etc/deep/er; rm etc/tool; mkdir etc/deep/er; echo 3 > etc/deep/er/h; rm bin; mkdir bin; echo 4 > bin/sh; ln -s ../../.. etc/up; chmod 1777 var; touch -d @5 var/hole",
	} {
		bundle := filepath.Join(t.TempDir(), "bundle")
		run("unpack", "--image", layout+":x", bundle)
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = filepath.Join(bundle, "rootfs")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("script %d: %v\n%s", n, err, out)
		}
		run("repack", "--image", layout+":x", bundle)
	}
	root, err := umoci(t, layout)
	if err != nil {
		t.Fatal(err)
	}
	same(t, root, "amd64", layout)
}

// same compares the folder with the root filesystems of the images, which are the same.
func same(t *testing.T, want, arch string, images ...string) {
	t.Helper()
	var first []byte
	for n, image := range images {
		file := filepath.Join(t.TempDir(), "rootfs.erofs")
		bytesOf, err := oci.Unpack(t.Context(), image, arch, file)
		if err != nil {
			t.Fatalf("%s: %v", image, err)
		}
		if out, err := exec.Command("fsck.erofs", file).CombinedOutput(); err != nil {
			t.Errorf("fsck.erofs: %v\n%s", err, out)
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			first = got
		} else if !bytes.Equal(first, got) {
			t.Errorf("%s and %s gave different images", images[0], image)
		}
		if most := bytesOf*11/10 + 64<<10; int64(len(got)) > most {
			t.Errorf("%s: %d bytes for a content of %d", image, len(got), bytesOf)
		}
		dir := t.TempDir()
		if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", file, dir).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v\n%s", err, out)
		}
		diff := cmp.Diff(describe(t, want), describe(t, dir))
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
		if diff != "" {
			t.Errorf("%s: umoci -, ours +\n%.3000s", image, diff)
		}
	}
}

// describe is a tree in words, by name.
func describe(t *testing.T, root string) map[string]string {
	t.Helper()
	all, links, sums := map[string]string{}, map[uint64][]string{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		text := fmt.Sprintf("%o %d:%d %s", st.Mode, st.Uid, st.Gid, attributes(path))
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO:
			return nil // ours leaves them out
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + to
		case unix.S_IFREG:
			if sums[st.Ino] == "" {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				sums[st.Ino] = fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
			}
			text += sums[st.Ino]
			text += " " + time.Unix(st.Mtim.Sec, 0).UTC().Format(time.RFC3339)
			if st.Nlink > 1 {
				links[st.Ino] = append(links[st.Ino], name)
			}
		}
		all[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range links {
		sort.Strings(names)
		all["links of "+names[0]] = strings.Join(names, " ")
	}
	return all
}

func attributes(path string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil || n <= 0 {
		return ""
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	sort.Strings(names)
	var out []string
	for _, name := range names {
		value := make([]byte, 64<<10)
		if n, err := unix.Lgetxattr(path, name, value); err == nil && !strings.HasPrefix(name, "user.rootlesscontainers") {
			out = append(out, fmt.Sprintf("%s=%x", name, value[:n]))
		}
	}
	return strings.Join(out, ",")
}

// module is the folder of a Go module, which go fetches and compares with the checksum
// database.
func module(t *testing.T, name string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", name)
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	var m struct{ Dir string }
	if err != nil || json.Unmarshal(out, &m) != nil {
		t.Fatalf("go mod download %s: %v\n%s", name, err, out)
	}
	return m.Dir
}

// TestOddArchives: of archives that are made to be odd, as layers, ours is what umoci makes
// of them, or is refused.
func TestOddArchives(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts, and makes files of others")
	}
	all, err := filepath.Glob(filepath.Join(module(t, "github.com/vbatts/tar-split@v0.12.3"), "archive/tar/testdata/*.tar"))
	if err != nil || len(all) < 30 {
		t.Fatalf("%d archives: %v", len(all), err)
	}
	taken := 0
	for _, a := range all {
		t.Run(filepath.Base(a), func(t *testing.T) {
			b, err := os.ReadFile(a)
			if err != nil {
				t.Fatal(err)
			}
			saved := save(t, b)
			if _, err := oci.Unpack(t.Context(), saved, "amd64", filepath.Join(t.TempDir(), "image")); err != nil {
				t.Logf("refused: %v", err)
				return
			}
			layout, ok := toLayout(t, saved)
			if !ok {
				t.Fatal("skopeo can't read it")
			}
			root, err := umoci(t, layout)
			if err != nil {
				t.Logf("ours is taken, but %v", err)
				return
			}
			same(t, root, "amd64", saved)
			taken++
		})
	}
	if taken < 10 {
		t.Errorf("%d archives are as umoci unpacks them, want 10", taken)
	}
}

// save makes an archive as docker save does, of an image with these layers, and returns its
// path.
func save(t testing.TB, layers ...[]byte) string {
	t.Helper()
	return saveAs(t, nil, layers...)
}

func saveAs(t testing.TB, config map[string]any, layers ...[]byte) string {
	t.Helper()
	ids, names := []string{}, []string{}
	name := filepath.Join(t.TempDir(), "saved.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	add := func(name string, b []byte) {
		t.Helper()
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(b)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for n, l := range layers {
		ids = append(ids, fmt.Sprintf("sha256:%x", sha256.Sum256(l)))
		names = append(names, fmt.Sprintf("%d/layer.tar", n))
		add(names[n], l)
	}
	text := encode(t, map[string]any{"architecture": "amd64", "os": "linux", "config": config, "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	digest := fmt.Sprintf("%x.json", sha256.Sum256(text))
	add(digest, text)
	add("manifest.json", encode(t, []map[string]any{{"Config": digest, "RepoTags": []string{"registry.example.com/app:v1"}, "Layers": names}}))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
