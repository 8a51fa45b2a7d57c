package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/image/cpio"
)

// recipe is image.json of a dir: folder: a whole image, or files that are added to
// another one.
type recipe struct {
	Image
	// From is the image that Add extends. It runs from its initrd.
	From string `json:"from"`
	// Add are files of the folder and where they are in the guest.
	Add []added `json:"add"`
}

type added struct {
	Name string `json:"name"`
	Path string `json:"path"`
}

const (
	maxAdded    = 256
	maxAddBytes = 512 << 20 // they are in the guest's memory
)

// hiddenInGuest are folders over which mvm-guest mounts a file system.
var hiddenInGuest = []string{"/dev", "/proc", "/sys", "/run", "/tmp", "/data"}

func decodeRecipe(b []byte) (recipe, error) {
	var r recipe
	if err := decodeStrict(b, &r); err != nil {
		return r, err
	}
	return r, r.validate()
}

// validate checks what image.json says about from and add; Image.validate checks the rest.
func (r recipe) validate() error {
	if r.From == "" && len(r.Add) == 0 {
		return nil
	}
	if own := r.Image; own != (Image{Version: own.Version, Name: own.Name, Arch: own.Arch}) {
		return errors.New("with from and add, image.json must not set cmdline, kernel, initrd or rootfs: they come from the image in from")
	}
	if r.From == "" {
		return errors.New("add needs from, the image to add the files to, such as \"builtin:minimal\"")
	}
	if len(r.Add) == 0 || len(r.Add) > maxAdded {
		return fmt.Errorf("add has %d files, not 1 to %d", len(r.Add), maxAdded)
	}
	seen := map[string]bool{}
	for _, a := range r.Add {
		if err := a.validate(); err != nil {
			return err
		}
		if seen[a.Path] {
			return fmt.Errorf("add: path %q is given twice", a.Path)
		}
		seen[a.Path] = true
	}
	for _, a := range r.Add {
		for d := path.Dir(a.Path); d != "/"; d = path.Dir(d) {
			if seen[d] {
				return fmt.Errorf("add: path %q is below %q, which is a file", a.Path, d)
			}
		}
	}
	return nil
}

func (a added) validate() error {
	if err := (File{Name: a.Name}).validateName(); err != nil {
		return err
	}
	if !path.IsAbs(a.Path) || path.Clean(a.Path) != a.Path || a.Path == "/" || len(a.Path) > 1024 || strings.ContainsRune(a.Path, 0) {
		return fmt.Errorf("add: path %.80q of %s is not a clean absolute path", a.Path, a.Name)
	}
	for _, d := range hiddenInGuest {
		if a.Path == d || strings.HasPrefix(a.Path, d+"/") {
			return fmt.Errorf("add: path %q of %s is below %s, which the guest mounts over: choose another folder, such as /usr/bin", a.Path, a.Name, d)
		}
	}
	return nil
}

// base returns the builder of the image in from.
func (d DirBuilder) base(from string) (Builder, error) {
	if d.Base == nil {
		return nil, fmt.Errorf("from %.80q: this host can build no image to add files to", from)
	}
	if _, err := Resolve([]Builder{d.Base}, from); err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	if err := d.Base.Check(from); err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	return d.Base, nil
}

func (d DirBuilder) baseKey(ctx context.Context, src *source) (string, error) {
	base, err := d.base(src.from)
	if err != nil {
		return "", err
	}
	return base.Key(ctx, src.from)
}

// buildFrom builds the image in from, and adds the files to its initrd.
func (d DirBuilder) buildFrom(ctx context.Context, src *source, dir string, progress func(mvm.Progress)) error {
	base, err := d.base(src.from)
	if err != nil {
		return err
	}
	if err := base.Build(ctx, src.from, dir, progress); err != nil {
		return err
	}
	img, err := load(dir)
	if err != nil {
		return err
	}
	if img.RootFS != nil || img.Initrd == (File{}) {
		return fmt.Errorf("from: %s has a root filesystem, but files can be added only to an image that runs from its initrd, such as builtin:minimal", src.from)
	}
	if err := src.addTo(ctx, filepath.Join(dir, img.Initrd.Name)); err != nil {
		return err
	}
	if img.Initrd, err = Measure(ctx, dir, img.Initrd.Name); err != nil {
		return err
	}
	img.Name = src.img.Name
	return WriteManifest(dir, img)
}

// addTo replaces the initrd by a copy with the files at its end, as an archive of their
// own: Linux unpacks one after the other. The file itself may be shared with other images.
func (s *source) addTo(ctx context.Context, initrd string) error {
	old, err := os.Open(initrd)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := os.Remove(initrd); err != nil {
		return err
	}
	f, err := os.OpenFile(initrd, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(f, copyChunk)
	_, err = io.Copy(out, ctxReader{ctx, old})
	w, left := cpio.NewWriter(out), int64(maxAddBytes)
	for _, a := range s.add {
		if err != nil {
			break
		}
		var n int64
		n, err = s.write(ctx, w, a, left)
		left -= n
	}
	if err == nil {
		err = w.Close()
	}
	return errors.Join(err, out.Flush(), f.Close())
}

// write adds one file of the folder, of at most so many bytes.
func (s *source) write(ctx context.Context, w *cpio.Writer, a added, most int64) (int64, error) {
	f, before, err := s.open(File{Name: a.Name}, most)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := statOf(f)
	if err != nil {
		return 0, err
	}
	perm := uint32(0o644)
	if st.Mode&0o100 != 0 {
		perm = 0o755
	}
	if err := w.MkdirAll(path.Dir(a.Path)); err != nil {
		return 0, err
	}
	if err := w.File(a.Path, perm, before.Size, ctxReader{ctx, f}); err != nil {
		return 0, err
	}
	if after, err := stampOf(f); err != nil || after != before {
		return 0, errors.Join(err, fmt.Errorf("%s was changed during the copy: build again when nobody writes to it", a.Name))
	}
	return before.Size, nil
}
