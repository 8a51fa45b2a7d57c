package image_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/image"
)

// wantRefused builds the folder and wants that to be invalid, with a reason, at once.
func wantRefused(t *testing.T, dir, why string) {
	t.Helper()
	s := open(t, t.TempDir(), image.DirBuilder{})
	done := make(chan error, 1)
	go func() {
		_, err := s.Build(context.WithoutCancel(t.Context()), image.Request{Ref: "dir:" + dir}, nil)
		done <- err
	}()
	select {
	case err := <-done:
		if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("got %v, want it refused with %q", err, why)
		}
	case <-time.After(time.Minute):
		t.Fatal("the build hangs")
	}
}

func byHand(t *testing.T) string {
	t.Helper()
	return folder(t, map[string]string{"image.json": handWritten, "bzImage": "kernel", "root.ext4": "root"})
}

// TestDirImageRefusesWhatIsNoFile puts links, fifos, devices and the like in the place of
// each file. None makes the build wait.
func TestDirImageRefusesWhatIsNoFile(t *testing.T) {
	for _, file := range []string{"image.json", "bzImage", "root.ext4"} {
		for what, put := range notFiles {
			t.Run(file+"/"+what, func(t *testing.T) {
				dir := byHand(t)
				path := filepath.Join(dir, file)
				must(t, os.Rename(path, path+".away"))
				put(t, path)
				wantRefused(t, dir, "not a regular file")
			})
		}
	}
}

// TestDirImageTakesNothingOfSomebodyElse: what is in an image can be read by every user of
// the host, so a link to another user's secret must not get into one.
func TestDirImageTakesNothingOfSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("files of another user take root to make")
	}
	const user = 12345
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir, kernel string)
		why   string // "": it is taken
	}{
		"hard link to a secret": {func(t *testing.T, dir, kernel string) {
			secret := filepath.Join(t.TempDir(), "secret")
			must(t, os.WriteFile(secret, []byte("secret"), 0o600))
			must(t, errors.Join(os.Remove(kernel), os.Link(secret, kernel)))
		}, "another user"},
		"link whose other name is gone": {func(t *testing.T, dir, kernel string) {
			must(t, errors.Join(os.Chown(kernel, 0, 0), os.Chmod(kernel, 0o600)))
		}, "another user"},
		"hard link to what everybody reads": {func(t *testing.T, dir, kernel string) {
			must(t, errors.Join(os.Chown(kernel, 0, 0), os.Link(kernel, filepath.Join(t.TempDir(), "other"))))
		}, "another user"},
		"copy by root":            {func(t *testing.T, dir, kernel string) { must(t, os.Chown(kernel, 0, 0)) }, ""},
		"hard link of his own":    {func(t *testing.T, dir, kernel string) { must(t, os.Link(kernel, filepath.Join(t.TempDir(), "other"))) }, ""},
		"private file of his own": {func(t *testing.T, dir, kernel string) { must(t, os.Chmod(kernel, 0o600)) }, ""},
		"folder for everybody":    {func(t *testing.T, dir, kernel string) { must(t, os.Chmod(dir, 0o777)) }, "every user can write"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := byHand(t)
			for _, f := range []string{".", "image.json", "bzImage", "root.ext4"} {
				must(t, os.Chown(filepath.Join(dir, f), user, user))
			}
			c.spoil(t, dir, filepath.Join(dir, "bzImage"))
			if c.why != "" {
				wantRefused(t, dir, c.why)
				return
			}
			build(t, open(t, t.TempDir(), image.DirBuilder{}), "dir:"+dir)
		})
	}
}

// TestDirImageIsWhatWasLookedAt swaps a file and links all the time while images are
// built. An image has the file's content or there is none.
func TestDirImageIsWhatWasLookedAt(t *testing.T) {
	dir := byHand(t)
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o600))
	kernel, link, file := filepath.Join(dir, "bzImage"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	stop, wg := make(chan struct{}), sync.WaitGroup{}
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.WriteFile(file, []byte("kernel"), 0o644)
			_ = os.Rename(file, kernel)
			_ = os.Symlink(secret, link)
			_ = os.Rename(link, kernel)
		}
	})
	built := 0
	for range 300 {
		to := t.TempDir()
		nothing := func(mvm.Progress) {}
		plan, err := (image.DirBuilder{}).Resolve(t.Context(), image.Request{Ref: "dir:" + dir}, nothing)
		if err == nil {
			err = (image.DirBuilder{}).Build(t.Context(), plan, to, nothing)
		}
		if err == nil {
			built++
		}
		if b, err := os.ReadFile(filepath.Join(to, "bzImage")); !errors.Is(err, fs.ErrNotExist) && string(b) != "kernel" {
			t.Errorf("an image got %q (%v)", b, err)
			break
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d of 300 images were built", built)
}

// TestDirImageRefusesAFileThatChanges appends to a file while it is copied.
func TestDirImageRefusesAFileThatChanges(t *testing.T) {
	dir := byHand(t)
	root := filepath.Join(dir, "root.ext4")
	must(t, os.Truncate(root, 64<<20))
	f, err := os.OpenFile(root, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer f.Close()
	stop, wg := make(chan struct{}), sync.WaitGroup{}
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = f.WriteString("more")
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	wantRefused(t, dir, "changed during the copy")
}

func TestDirImageHasBounds(t *testing.T) {
	for _, c := range []struct {
		file string
		size int64
	}{{"bzImage", 256<<20 + 1}, {"root.ext4", 64<<30 + 1}, {"image.json", 64<<10 + 1}} {
		dir := byHand(t)
		must(t, os.Truncate(filepath.Join(dir, c.file), c.size))
		wantRefused(t, dir, fmt.Sprintf("%d bytes, more than", c.size))
	}
}

// TestSparseFilesStaySparse: a root filesystem with holes takes no more room in the store
// than in its folder.
func TestSparseFilesStaySparse(t *testing.T) {
	const size, block = 48 << 20, 64 << 10
	for name, at := range map[string][]int64{"only a hole": nil, "in the middle": {16 << 20, 33 << 20}, "at both ends": {0, size - block}} {
		t.Run(name, func(t *testing.T) {
			dir := byHand(t)
			root := filepath.Join(dir, "root.ext4")
			f, err := os.Create(root)
			must(t, err)
			for n, off := range at {
				_, err := f.WriteAt([]byte(strings.Repeat(string(rune('a'+n)), block)), off)
				must(t, err)
			}
			must(t, errors.Join(f.Truncate(size), f.Close()))
			s := open(t, t.TempDir(), image.DirBuilder{})
			img := build(t, s, "dir:"+dir)
			want, err := image.Measure(t.Context(), dir, "root.ext4")
			if err != nil || *img.RootFS != want {
				t.Errorf("copied %v, want %v (%v)", *img.RootFS, want, err)
			}
			must(t, s.Verify(t.Context(), img.Digest))
			var from, to syscall.Stat_t
			must(t, errors.Join(syscall.Stat(root, &from), syscall.Stat(img.Path(*img.RootFS), &to)))
			if to.Blocks > from.Blocks+2*block/512 {
				t.Errorf("the copy holds %d KiB, the file %d", to.Blocks/2, from.Blocks/2)
			}
		})
	}
}

func TestDirImageNeedsAnAbsolutePath(t *testing.T) {
	t.Chdir(byHand(t))
	s := open(t, t.TempDir(), image.DirBuilder{})
	for _, ref := range []string{"dir:.", "dir:x", "dir:./x", "dir:../x"} {
		_, err := s.Build(t.Context(), image.Request{Ref: ref}, nil)
		for _, err := range []error{err, s.Check(ref)} {
			if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "absolute path") {
				t.Errorf("%s: %v, want it refused with what to do", ref, err)
			}
		}
	}
	wantRefused(t, "/dev/null", "not a directory")
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(fifo, 0o644))
	wantRefused(t, fifo, "not a directory")
}
