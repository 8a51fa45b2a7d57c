package host

import (
	"context"
	"log/slog"
	"path/filepath"

	"mvm/internal/driver"
	"mvm/internal/driver/firecracker"
	"mvm/internal/driver/vmproc"
	"mvm/internal/image"
)

// newFirecracker opens the Firecracker driver. Its self-test boots any image that is there:
// rather one without a root disk.
func newFirecracker(o Options, bounds vmproc.Bounds, mark func() (string, error), log *slog.Logger) (driver.Driver, error) {
	images, err := image.Open(filepath.Join(o.DataDir, "images"), nil, log)
	if err != nil {
		return nil, err
	}
	log.Warn("driver firecracker: " + firecracker.NeverRun)
	dir := filepath.Join(o.DataDir, firecracker.Name)
	bounds.ProbeRoot = dir
	return firecracker.New(firecracker.Options{StateDir: dir, Bounds: bounds, Mark: mark, Log: log,
		Bounded: o.Trust.Production && !o.Trust.WeakIsolation, ProbeImage: func() (firecracker.ProbeImage, bool) { return probeImage(images, log) }})
}

func probeImage(images *image.DirStore, log *slog.Logger) (p firecracker.ProbeImage, ok bool) {
	all, err := images.List()
	if err != nil {
		log.Warn("no image for the self-test of Firecracker", "error", err)
	}
	for _, img := range all {
		files := []image.File{img.Kernel, img.Initrd}
		root := ""
		if img.RootFS != nil {
			files, root = append(files, *img.RootFS), img.Path(*img.RootFS)
		}
		if ok && root != "" || !whole(images, img, files) {
			continue
		}
		p, ok = firecracker.ProbeImage{Kernel: img.Path(img.Kernel), Initrd: img.Path(img.Initrd), Cmdline: img.Cmdline, Root: root}, true
		if root == "" {
			break
		}
	}
	return p, ok
}

// whole reports that the files of the image are what they were when it was built.
func whole(images *image.DirStore, img image.Image, files []image.File) bool {
	for _, f := range files {
		opened, err := images.Open(context.Background(), img, f)
		if err != nil {
			return false
		}
		_ = opened.Close()
	}
	return true
}
