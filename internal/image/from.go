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
	"mvm/internal/guest/definition"
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
	// Archive is a cpio archive of the folder with files, folders and links to add, in
	// place of Add.
	Archive File `json:"archive,omitzero"`
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
	packed := r.Archive != (File{})
	if r.From == "" && len(r.Add) == 0 && !packed {
		return nil
	}
	if err := r.Runtime.validate(); err != nil {
		return err
	}
	if own := r.Image; own != (Image{Version: own.Version, Name: own.Name, Arch: own.Arch, Runtime: own.Runtime}) {
		return errors.New("with from and add, image.json must not set cmdline, kernel, initrd or rootfs: they come from the image in from")
	}
	if r.From == "" {
		return errors.New("add needs from, the image to add the files to, such as \"builtin:minimal\"")
	}
	if packed && len(r.Add) > 0 {
		return errors.New("add and archive exclude each other")
	}
	if packed {
		return r.Archive.validateName()
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
	if err := CheckPath(a.Path); err != nil {
		return fmt.Errorf("add: %s: %w", a.Name, err)
	}
	return nil
}

// CheckPath refuses a path in the guest at which no file can be added.
func CheckPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || len(p) > 1024 || strings.ContainsRune(p, 0) {
		return fmt.Errorf("path %.80q is not a clean absolute path", p)
	}
	for _, d := range append([]string{definition.StageDir}, hiddenInGuest...) {
		if p == d || strings.HasPrefix(p, d+"/") {
			return fmt.Errorf("path %q is below %s, which the guest mounts over: choose another folder, such as /usr/bin", p, d)
		}
	}
	return nil
}

// resolveBase looks up the image in from.
func (d DirBuilder) resolveBase(ctx context.Context, src *source, req Request, progress func(mvm.Progress)) (Plan, error) {
	if len(d.Bases) == 0 {
		return Plan{}, fmt.Errorf("from %.80q: this host can build no image to add files to", src.from)
	}
	base, err := BuilderOf(d.Bases, src.from)
	if err == nil {
		err = base.Check(src.from)
	}
	if err != nil {
		return Plan{}, fmt.Errorf("from: %w", err)
	}
	req.Ref = src.from
	plan, err := base.Resolve(ctx, req, progress)
	plan.Request = req
	return plan, err
}

// buildFrom builds the image in from, and adds the files to its initrd.
func (d DirBuilder) buildFrom(ctx context.Context, src *source, plan Plan, dir string, progress func(mvm.Progress)) error {
	base, err := BuilderOf(d.Bases, src.from)
	if err != nil {
		return err
	}
	if err := base.Build(ctx, plan, dir, progress); err != nil {
		return err
	}
	img, err := load(dir)
	if err != nil {
		return err
	}
	where, err := placeOf(img)
	if err != nil {
		return fmt.Errorf("from: %s %w", src.from, err)
	}
	if err := src.addTo(ctx, filepath.Join(dir, img.Initrd.Name), where); err != nil {
		return err
	}
	if img.Initrd, err = Measure(ctx, dir, img.Initrd.Name); err != nil {
		return err
	}
	img.Name = src.img.Name
	if own := src.img.Runtime; own != nil {
		img.Runtime = own
	}
	return WriteManifest(dir, img)
}

// placeOf is the folder of the image's initrd below which files are added: they are over
// those of the root filesystem where mvm-guest mounts it.
func placeOf(img Image) (string, error) {
	switch {
	case img.Initrd == (File{}):
		return "", errors.New("has no initrd to add files to")
	case img.RootFS == nil:
		return "/", nil
	case !strings.Contains(img.Cmdline, "mvm.root="):
		return "", errors.New("has a root filesystem that mvm-guest does not mount, so files can't be added: use an image that mvm builds, such as builtin:minimal")
	}
	return definition.AddedDir, nil
}

// addTo replaces the initrd by a copy with the files at its end, below where, as an archive
// of their own: Linux unpacks one after the other. The file itself may be shared with other
// images.
func (s *source) addTo(ctx context.Context, initrd, where string) error {
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
	if err == nil && s.archive != (File{}) {
		err = s.writeArchive(ctx, w, where)
	}
	for _, a := range s.add {
		if err != nil {
			break
		}
		var n int64
		a.Path = path.Join(where, a.Path)
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
