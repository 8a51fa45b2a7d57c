package vm_test

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"mvm/internal/image"
	"mvm/internal/image/cpio"
	"mvm/internal/sys"
	"mvm/internal/testenv"
)

// The images of the tests: builtin:minimal with the workload of this folder, and
// with that as a hostile init.
const (
	imgWorkload = "workload"
	imgNext     = "next" // a later one of the workload
	imgMute     = "mute"
	imgFlood    = "flood"
	imgForge    = "forge"
	imgDial     = "dial"
)

// place is the folder of this run; it holds:
//
//	mvm            the program
//	mvm-guest      that of the images
//	images/        the image store of every agent
//	src/<name>/    the images of the tests, as dir: references name them
func place() string { return os.Getenv(envPlace) }

func imageRef(name string) string { return "dir:" + filepath.Join(place(), "src", name) }

// TestPrepare builds what the tests need, outside of their namespaces: images may be
// fetched from the network. In the namespaces it has nothing to do.
func TestPrepare(t *testing.T) {
	testenv.NeedRoot(t)
	if os.Getenv(envPart) != "prepare" {
		return
	}
	guest := testenv.Guest(t) // once: who changes its source meanwhile gets it in the next run
	must(t, image.Link(guest, filepath.Join(place(), "mvm-guest")))
	must(t, image.Link(testenv.Mvm(t), filepath.Join(place(), "mvm")))
	minimal := testenv.Image(t, "builtin:minimal")
	gateway := testenv.Image(t, "builtin:gateway")
	store := filepath.Join(place(), "images")
	share(t, store, minimal)
	share(t, store, gateway)
	workload := filepath.Join(place(), "workload")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", workload, "./workload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the workload: %v\n%s", err, out)
	}
	writeImage(t, imgWorkload, minimal, workload, "/bin/workload", "")
	writeImage(t, imgNext, minimal, workload, "/bin/workload", " mvmtest=next")
	writeImage(t, imgMute, minimal, workload, "/init", " mvmtest=mute")
	writeImage(t, imgFlood, minimal, workload, "/init", " mvmtest=flood")
	writeImage(t, imgForge, minimal, workload, "/init", " mvmtest=forge")
	writeImage(t, imgDial, minimal, workload, "/init", " mvmtest=dial")
	names := []string{imgWorkload, imgNext, imgMute, imgFlood, imgForge, imgDial}
	if os.Getenv(envBench) != "" {
		prepareNginx(t, minimal)
		names = append(names, imgNginx)
	}
	prepareOwn(t)
	prepareContainer(t)
	names = append(names, imgOwn)
	images, err := image.Open(store, []image.Builder{image.DirBuilder{Bases: []image.Builder{testenv.Builtin(t)}}}, slog.New(slog.DiscardHandler))
	must(t, err)
	for _, name := range names {
		_, err := images.Build(context.Background(), image.Request{Ref: imageRef(name)}, nil)
		must(t, err)
	}
	prepareDemo(t)
	if *oldFlag != "" {
		must(t, os.WriteFile(filepath.Join(place(), "base"), []byte(freshBase(t)), 0o644))
	}
}

// share gives the store the image of the test cache and what is known of its
// references, so that it counts as built there.
func share(t *testing.T, store string, img image.Image) {
	t.Helper()
	to := filepath.Join(store, filepath.Base(img.Dir))
	must(t, os.MkdirAll(to, 0o755))
	must(t, os.MkdirAll(filepath.Join(store, "refs"), 0o755))
	linkAll(t, img.Dir, to)
	linkAll(t, filepath.Join(filepath.Dir(img.Dir), "refs"), filepath.Join(store, "refs"))
}

func linkAll(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	must(t, err)
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(to, e.Name())); err == nil {
			continue
		}
		must(t, image.Link(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())))
	}
}

// writeImage is writeImageOf with one file.
func writeImage(t *testing.T, name string, base image.Image, file, as, args string) {
	t.Helper()
	writeImageOf(t, name, base, map[string]string{as: file}, args)
}

// writeImageOf makes the folder of an image that is base with more files, by their
// paths in it, and more kernel arguments. Linux unpacks an initrd of several archives
// one after another.
func writeImageOf(t *testing.T, name string, base image.Image, files map[string]string, args string) {
	t.Helper()
	dir := filepath.Join(place(), "src", name)
	must(t, os.MkdirAll(dir, 0o755))
	must(t, image.Link(base.Path(base.Kernel), filepath.Join(dir, base.Kernel.Name)))
	out, err := os.Create(filepath.Join(dir, "initrd"))
	must(t, err)
	defer out.Close()
	in, err := os.Open(base.Path(base.Initrd))
	must(t, err)
	defer in.Close()
	_, err = io.Copy(out, in)
	must(t, err)
	w := cpio.NewWriter(out)
	for _, as := range slices.Sorted(maps.Keys(files)) {
		b, err := os.ReadFile(files[as])
		must(t, err)
		must(t, w.MkdirAll(filepath.Dir(as)))
		must(t, w.Bytes(as, 0o755, string(b)))
	}
	must(t, w.Close())
	must(t, sys.WriteJSON(filepath.Join(dir, image.ManifestName), image.Image{Version: image.FormatVersion, Name: name, Arch: base.Arch,
		Cmdline: base.Cmdline + args, Kernel: image.File{Name: base.Kernel.Name}, Initrd: image.File{Name: "initrd"}}, 0o644))
}
