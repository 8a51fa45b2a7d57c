package image_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/image"
)

// flip changes one byte of a file as a fault of a disk's file system would leave it: size,
// mode and mtime stay.
func flip(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	for _, err := range []error{os.Chmod(path, 0o600), writeInPlace(path, b), os.Chmod(path, info.Mode()), os.Chtimes(path, info.ModTime(), info.ModTime())} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func writeInPlace(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(b, 0)
	return err
}

// read opens a file of the image as for a VMM and returns what is in it.
func read(s *image.DirStore, img image.Image, f image.File) (string, error) {
	opened, err := s.Open(context.Background(), img, f)
	if err != nil {
		return "", err
	}
	defer opened.Close()
	b := make([]byte, f.Size)
	_, err = opened.Read(b) // from its start: what was read for the digest did not move it
	return string(b), err
}

func TestOpenRefusesAChangedFile(t *testing.T) {
	s := open(t, t.TempDir(), &toy{key: "1"})
	for _, pause := range []time.Duration{0, 150 * time.Millisecond} { // right after the build, and when its digest is remembered
		img := build(t, s, "toy:"+pause.String())
		time.Sleep(pause)
		for range 2 {
			if got, err := read(s, img, img.Initrd); err != nil || got != "initrd of toy:"+pause.String()+"1" {
				t.Fatalf("whole file: %q, %v", got, err)
			}
		}
		flip(t, img.Path(img.Initrd))
		for range 2 {
			_, err := read(s, img, img.Initrd)
			if !mvm.IsKind(err, mvm.KindInternal) || !strings.Contains(err.Error(), img.Path(img.Initrd)) || !strings.Contains(err.Error(), img.Initrd.SHA256) ||
				!strings.Contains(err.Error(), "build the image again") {
				t.Errorf("a flipped byte: %v, want an error with file, digest and what to do", err)
			}
		}
		if _, err := read(s, img, img.Kernel); err != nil {
			t.Errorf("another file of the image: %v", err)
		}
		if again := build(t, s, "toy:"+pause.String()); again.Digest != img.Digest {
			t.Errorf("built again: %s, want %s", again.Digest, img.Digest)
		}
		if got, err := read(s, img, img.Initrd); err != nil {
			t.Errorf("after it was built again: %q, %v", got, err)
		}
	}
}

// TestOpenRefusesWhatIsNoFile puts other things in the place of a file; none makes Open
// wait.
func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	for name, put := range notFiles {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), &toy{key: "1"})
			img := build(t, s, "toy:a")
			path := img.Path(img.Kernel)
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			put(t, path)
			if _, err := read(s, img, img.Kernel); !mvm.IsKind(err, mvm.KindInternal) || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("got %v, want a damaged image", err)
			}
		})
	}
}

// whileRead is a context that calls do each time a part of a file is about to be read.
type whileRead struct {
	context.Context
	do func()
}

func (c whileRead) Err() error {
	c.do()
	return c.Context.Err()
}

// TestLinkedWhileRead: a build of another image that shares the file links it, which
// changes the inode's ctime. An instance that starts meanwhile starts all the same. A file
// that never stands still is refused.
func TestLinkedWhileRead(t *testing.T) {
	s := open(t, t.TempDir(), &toy{key: "1"})
	img := build(t, s, "toy:a")
	links := t.TempDir()
	for _, c := range []struct {
		name  string
		links int
		ok    bool
	}{{"once", 1, true}, {"always", 1000, false}} {
		made := 0
		ctx := whileRead{context.Background(), func() {
			if made == c.links {
				return
			}
			made++
			time.Sleep(20 * time.Millisecond) // file systems count time in ticks
			if err := os.Link(img.Path(img.Initrd), filepath.Join(links, c.name+strconv.Itoa(made))); err != nil {
				t.Fatal(err)
			}
		}}
		f, err := s.Open(ctx, img, img.Initrd)
		if c.ok && err != nil || !c.ok && (err == nil || !strings.Contains(err.Error(), img.Path(img.Initrd))) || made == 0 {
			t.Errorf("linked %s while it is read: %v after %d links", c.name, err, made)
		}
		if err == nil {
			f.Close()
		}
	}
}

func TestUnchangedFilesAreNotReadAgain(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, &toy{key: "1"})
	img := build(t, s, "toy:a")
	remembered := filepath.Join(dir, "checked.json")
	for has(t, remembered) < 2 { // a digest is remembered once no change can have the same time
		time.Sleep(20 * time.Millisecond)
		for _, f := range []image.File{img.Kernel, img.Initrd} {
			if _, err := read(s, img, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What is remembered serves the next process as well, and is used: a digest that is
	// remembered wrong is believed as long as the file has the same stamp.
	b, err := os.ReadFile(remembered)
	if err != nil {
		t.Fatal(err)
	}
	wrong := strings.Repeat("0", 64)
	if err := os.WriteFile(remembered, []byte(strings.ReplaceAll(string(b), img.Kernel.SHA256, wrong)), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, &toy{key: "1"})
	if _, err := read(s, img, img.Kernel); err == nil || !strings.Contains(err.Error(), wrong) {
		t.Errorf("the next process reads an unchanged file again: %v", err)
	}
	now := time.Now()
	if err := os.Chtimes(img.Path(img.Kernel), now, now); err != nil {
		t.Fatal(err)
	}
	if _, err := read(s, img, img.Kernel); err != nil {
		t.Errorf("a file with other times is read anew: %v", err)
	}
	if err := os.WriteFile(remembered, []byte("{garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := read(open(t, dir), img, img.Kernel); err != nil {
		t.Errorf("without what was remembered: %v", err)
	}
	old := strings.NewReplacer(`"boot_id": "`, `"boot_id": "another `, img.Kernel.SHA256, wrong).Replace(string(b))
	if err := os.WriteFile(remembered, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := read(open(t, dir), img, img.Kernel); err != nil {
		t.Errorf("after a boot of the host: %v", err)
	}
}

// has counts the digests that are remembered.
func has(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(b), `"sha256"`)
}

func TestManyOpenAtOnce(t *testing.T) {
	s := open(t, t.TempDir(), &toy{key: "1"})
	img := build(t, s, "toy:a")
	var wg sync.WaitGroup
	for n := range 64 {
		wg.Go(func() {
			if n%8 == 0 { // one who gives up does not make the others fail
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				wg.Go(cancel)
				if f, err := s.Open(ctx, img, img.Kernel); err == nil {
					f.Close()
				}
				return
			}
			if _, err := read(s, img, img.Kernel); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func BenchmarkOpenUnchanged(b *testing.B) {
	dir := b.TempDir()
	s, err := image.Open(dir, []image.Builder{&toy{key: "1"}}, discard)
	if err != nil {
		b.Fatal(err)
	}
	img, err := s.Build(b.Context(), image.Request{Ref: "toy:a"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	for b.Loop() {
		f, err := s.Open(b.Context(), img, img.Kernel)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
