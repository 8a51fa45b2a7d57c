package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/boot"
	"mvm/internal/image/builtin"
)

// oldBinaries is the age at which binaries of other sources are removed.
const oldBinaries = 24 * time.Hour

// Mvm returns the path of mvm, with mvm-guest beside it, static and built from the
// present source. Each is built once per state of its source, whatever number of
// tests and packages ask.
func Mvm(t testing.TB) string {
	t.Helper()
	guest := Guest(t)
	mvm := program(t, "mvm")
	beside := filepath.Join(filepath.Dir(mvm), "mvm-guest")
	unlock := lock(t, filepath.Join(Cache(t), "bin", "lock"))
	defer unlock()
	a, errA := os.Stat(guest)
	b, errB := os.Stat(beside)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return mvm
	}
	temp := beside + ".tmp"
	if err := os.Link(guest, temp); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	if err := os.Rename(temp, beside); err != nil {
		t.Fatal(err)
	}
	return mvm
}

// Guest returns the path of mvm-guest, built as Mvm is.
func Guest(t testing.TB) string {
	t.Helper()
	return program(t, "mvm-guest")
}

// program builds the program unless it is there.
func program(t testing.TB, name string) string {
	t.Helper()
	root := moduleRoot(t)
	bin := filepath.Join(Cache(t), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock := lock(t, filepath.Join(bin, "lock"))
	defer unlock()
	dir := filepath.Join(bin, name+"-"+sourceHash(t, root, name))
	if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
		build(t, root, dir, name)
	}
	removeOld(t, bin, dir)
	return filepath.Join(dir, name)
}

// build makes one program of cmd, complete or not at all.
func build(t testing.TB, root, dir, name string) {
	t.Helper()
	temp := filepath.Join(dir, name+".tmp")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", temp, "./cmd/"+name)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	if err := os.Rename(temp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// moduleRoot is the folder of go.mod above the test's package.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("there is no go.mod above the working folder")
	return ""
}

// listFiles prints the files of ours that a program is made of.
const listFiles = `{{if .Module}}{{if .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}
{{end}}{{range .SFiles}}{{$d}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}
{{end}}{{end}}{{end}}`

// sourceHash covers every file that the program is made of.
func sourceHash(t testing.TB, root, name string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", listFiles, "./cmd/"+name)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the sources of %s: %v", name, err)
	}
	h := sha256.New()
	for _, path := range append(strings.Fields(string(out)), filepath.Join(root, "go.sum")) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(h, "%s %d\n", path, len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// lock takes the file's lock, which other processes wait for.
func lock(t testing.TB, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("lock %s: %v", path, err)
	}
	return func() { _ = f.Close() }
}

// removeOld keeps the cache from growing with every change of the source.
func removeOld(t testing.TB, bin, keep string) {
	t.Helper()
	now := time.Now()
	if err := os.Chtimes(keep, now, now); err != nil {
		t.Fatal(err)
	}
	dirs, _ := os.ReadDir(bin)
	for _, d := range dirs {
		info, err := d.Info()
		if err == nil && d.IsDir() && now.Sub(info.ModTime()) > oldBinaries {
			_ = os.RemoveAll(filepath.Join(bin, d.Name()))
		}
	}
}

// Base returns what images of the cache boot with, with this source's mvm-guest.
func Base(t testing.TB) *boot.Base {
	t.Helper()
	b, err := boot.Open(boot.Options{Dir: filepath.Join(Cache(t), "builtin"), GuestBinary: Guest(t), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Builtin returns the built-in images' builder of the cache, with this source's mvm-guest.
func Builtin(t testing.TB) image.Builder {
	t.Helper()
	return builtin.New(Base(t))
}

// Images returns the image store of the cache, with the built-in images' builder
// and this source's mvm-guest.
func Images(t testing.TB) *image.DirStore {
	t.Helper()
	b := Builtin(t)
	store, err := image.Open(filepath.Join(Cache(t), "images"), []image.Builder{b, image.DirBuilder{Bases: []image.Builder{b}}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// Image returns the image of the reference, built when the cache has none. The
// first time on a machine takes as long as fetching packages takes.
func Image(t testing.TB, ref string) image.Image {
	t.Helper()
	last := ""
	img, err := Images(t).Build(context.WithoutCancel(t.Context()), image.Request{Ref: ref}, func(p mvm.Progress) {
		if p.Text != last {
			last = p.Text
			t.Logf("%s: %s", p.Target, p.Text)
		}
	})
	if err != nil {
		t.Fatalf("image %s: %v", ref, err)
	}
	return img
}
