package live

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/folders"
	"mvm/internal/image"
)

// spec is the whole Spec of an instance, without its TAP and its open files.
func (v *VMMs) spec(i mvm.Instance) (driver.Spec, error) {
	img, err := v.opt.Images.Get(i.Image)
	if err != nil {
		return driver.Spec{}, imageError(i, err)
	}
	return v.specOf(i, img), nil
}

func (v *VMMs) specOf(i mvm.Instance, img image.Image) driver.Spec {
	s := v.baseSpec(i)
	s.Kernel, s.Initrd, s.Cmdline = img.Path(img.Kernel), img.Path(img.Initrd), img.Cmdline
	if img.RootFS != nil {
		s.Disks = append(s.Disks, driver.Disk{Path: img.Path(*img.RootFS), Serial: "mvm-root", ReadOnly: true})
	}
	if i.Res.DataDiskMiB > 0 {
		s.Disks = append(s.Disks, driver.Disk{Path: filepath.Join(s.Dir, folders.DataDisk), Serial: "mvm-data"})
	}
	return s
}

// openSpec is spec with the files of the image opened and checked: those that a VMM which
// boots reads, or its root disk alone. The caller closes them.
func (v *VMMs) openSpec(ctx context.Context, i mvm.Instance, boots bool) (s driver.Spec, err error) {
	img, err := v.opt.Images.Get(i.Image)
	if err != nil {
		return s, imageError(i, err)
	}
	s = v.specOf(i, img)
	s.Opened = map[string]*os.File{}
	for _, f := range bootFiles(img, boots) {
		opened, err := v.opt.Images.Open(ctx, img, f)
		if err != nil {
			closeOpened(s)
			return s, imageError(i, err)
		}
		s.Opened[img.Path(f)] = opened
	}
	return s, nil
}

// bootFiles are the image's files that a VMM gets: a restored one has kernel and initrd
// in its memory.
func bootFiles(img image.Image, boots bool) (files []image.File) {
	if boots {
		files = append(files, img.Kernel)
	}
	if boots && img.Initrd != (image.File{}) {
		files = append(files, img.Initrd)
	}
	if img.RootFS != nil {
		files = append(files, *img.RootFS)
	}
	return files
}

func closeOpened(s driver.Spec) {
	for _, f := range s.Opened {
		_ = f.Close() // read only
	}
}

// Bootable says why the instance can't boot from its image, so that nothing is given up
// for a boot that must fail.
func (v *VMMs) Bootable(ctx context.Context, i mvm.Instance) error {
	s, err := v.openSpec(ctx, i, true)
	closeOpened(s)
	return err
}

// imageError says what to do about an image that is damaged or not there.
func imageError(i mvm.Instance, err error) error {
	var inner *mvm.Error
	if !errors.As(err, &inner) || inner.Fix == "" {
		return mvm.Errorf(mvm.KindOf(err), "open image of %s: %w", i.Address(), err)
	}
	pool := mvm.Address{Tenant: i.Tenant, Pool: i.Pool}
	e := mvm.Errorf(inner.Kind, "open image of %s: %s", i.Address(), inner.Text)
	e.Err = err
	return e.WithFix("build it again with `mvm pool build %s`, or go back to the build before with `mvm pool rollback %s`", pool, pool)
}
