package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/sys"
)

// DirBuilder takes an image that somebody made: "dir:<folder>", a folder with
// image.json and the files that it names. The folder is copied: changing it later
// changes nothing until the next build. Fields that a person can't easily write are
// filled in: version, sizes and digests may be left out of image.json. It may also name
// another image and files to add to it; see recipe.
//
// Folders are of users whom the agent does not trust. It opens each file once, follows no
// link, and looks at what it has opened; see source.
type DirBuilder struct {
	// Bases build the images that files can be added to.
	Bases []Builder
}

var _ Builder = DirBuilder{}

// The most that the files of a dir: image may have.
const (
	maxKernel = 256 << 20
	maxInitrd = 1 << 30
	maxRootFS = 64 << 30
)

// Scheme is "dir:".
func (DirBuilder) Scheme() string { return "dir:" }

// Check takes every folder with an absolute path; whether it is there shows when it is
// built.
func (DirBuilder) Check(ref string) error {
	if dir := strings.TrimPrefix(ref, DirBuilder{}.Scheme()); !filepath.IsAbs(dir) {
		return mvm.Errorf(mvm.KindInvalid, "image %s: %q is a relative path", ref, dir).
			WithFix("use an absolute path, such as dir:/srv/images/mine")
	}
	return nil
}

// ReadsHost implements Builder: the reference is a folder of the host.
func (DirBuilder) ReadsHost(string) bool { return true }

// dirPlan is what Resolve has found of a folder.
type dirPlan struct{ base Plan } // of the image that files are added to

// Resolve implements Builder. The key covers image.json, inode, size and times of each of its
// files, and the key of the image that they are added to.
func (d DirBuilder) Resolve(ctx context.Context, req Request, progress func(mvm.Progress)) (Plan, error) {
	src, err := openSource(req.Ref)
	if err != nil {
		return Plan{}, err
	}
	defer src.Close()
	p := Plan{Request: req, Resolved: req.Ref, Inputs: map[string]string{}}
	var pinned dirPlan
	if src.from != "" {
		if pinned.base, err = d.resolveBase(ctx, src, req, progress); err != nil {
			return Plan{}, dirError(req.Ref, err)
		}
		p.Inputs["from"] = pinned.base.Resolved
		for name, v := range pinned.base.Inputs {
			p.Inputs["from."+name] = v
		}
	}
	p.Pinned = pinned
	if src.archive.SHA256 != "" {
		p.Inputs[src.archive.Name] = "sha256:" + src.archive.SHA256
	}
	if p.Key, err = src.key(pinned.base.Key); err != nil {
		return Plan{}, dirError(req.Ref, err)
	}
	return p, nil
}

// key changes whenever a file of the folder does.
func (s *source) key(base string) (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(recipe{s.img, s.from, s.add, s.archive}); err != nil {
		return "", err
	}
	if s.from != "" {
		fmt.Fprintf(h, "\n%s", base)
	}
	for _, p := range s.places() {
		f, st, err := s.open(*p.file, p.most)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "\n%s %v", p.file.Name, st)
		if err := f.Close(); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Build copies the folder's files. Where image.json gives a size or digest, the file must
// have it.
func (d DirBuilder) Build(ctx context.Context, plan Plan, dir string, progress func(mvm.Progress)) error {
	ref := plan.Request.Ref
	pinned, ok := plan.Pinned.(dirPlan)
	if !ok {
		return mvm.Errorf(mvm.KindInternal, "image %s: build of a plan that is not of this builder", ref)
	}
	src, err := openSource(ref)
	if err != nil {
		return err
	}
	defer src.Close()
	if now, err := src.key(pinned.base.Key); err != nil || now != plan.Key {
		return dirError(ref, cmp.Or(err, errors.New("a file of the folder was changed during the copy: build again when nobody writes to it")))
	}
	if src.from != "" {
		if err := d.buildFrom(ctx, src, pinned.base, dir, progress); err != nil {
			return dirError(ref, err)
		}
		return nil
	}
	for _, p := range src.places() {
		progress(mvm.Progress{Target: ref, Text: "copying " + p.file.Name})
		if err := src.copy(ctx, dir, p.file, p.most); err != nil {
			return dirError(ref, err)
		}
	}
	src.img.Version = FormatVersion
	if err := src.img.validate(); err != nil {
		return dirError(ref, err)
	}
	return WriteManifest(dir, src.img)
}

// place is where image.json names a file, and the most bytes that it may have.
type place struct {
	file *File
	most int64
}

func (s *source) places() []place {
	if s.from != "" {
		if s.archive != (File{}) {
			return []place{{&s.archive, maxArchive}}
		}
		all := make([]place, len(s.add))
		for n, a := range s.add {
			all[n] = place{&File{Name: a.Name}, maxAddBytes}
		}
		return all
	}
	i := &s.img
	all := []place{{&i.Kernel, maxKernel}}
	if i.Initrd != (File{}) {
		all = append(all, place{&i.Initrd, maxInitrd})
	}
	if i.RootFS != nil {
		all = append(all, place{i.RootFS, maxRootFS})
	}
	return all
}

// source is the open folder of a dir: image. Whoever owns it may change it at any time
// and may put anything in the place of a file, so:
//
//   - each file is opened in the folder that was opened, by a plain name, and no link is
//     followed; what is read, checked and copied is that open file;
//   - it is a regular file, so that nothing waits and no device is read;
//   - it belongs to the folder's owner. A file of somebody else has one name and may be
//     read by everybody: a hard link can't bring a secret of another user into an image,
//     which every user of the host may read.
type source struct {
	dir   *os.File
	owner uint32
	img   Image // of image.json, in which sizes and digests may be missing
	from  string
	add   []added
	// archive is the zero File where add has what is added.
	archive File
}

// openSource opens the folder and reads its image.json.
func openSource(ref string) (src *source, err error) {
	if err := (DirBuilder{}).Check(ref); err != nil {
		return nil, err
	}
	src = &source{}
	path := strings.TrimPrefix(ref, DirBuilder{}.Scheme())
	if src.dir, err = os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0); err != nil {
		return nil, dirError(ref, err)
	}
	if err = src.readManifest(ref); err != nil {
		return nil, dirError(ref, errors.Join(err, src.Close()))
	}
	return src, nil
}

func (s *source) readManifest(ref string) error {
	st, err := statOf(s.dir)
	if err != nil {
		return err
	}
	if s.owner = st.Uid; st.Mode&0o002 != 0 {
		return fmt.Errorf("every user can write to %s: run chmod o-w on it", s.dir.Name())
	}
	f, _, err := s.open(File{Name: ManifestName}, maxManifest)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return err
	}
	r, err := decodeRecipe(b)
	if err != nil {
		return fmt.Errorf("%s: %w", ManifestName, err)
	}
	s.img, s.from, s.add, s.archive = r.Image, r.From, r.Add, r.Archive
	for _, p := range s.places() {
		if err := p.file.validateName(); err != nil {
			return err
		}
	}
	if s.img.Name == "" {
		s.img.Name = ref
	}
	if s.img.Arch == "" {
		s.img.Arch = "amd64"
	}
	return nil
}

// Close closes the folder.
func (s *source) Close() error { return s.dir.Close() }

// open opens a file of the folder that has at most so many bytes.
func (s *source) open(want File, most int64) (_ *os.File, is stamp, err error) {
	f, err := openRegular(int(s.dir.Fd()), want.Name)
	if err != nil {
		return nil, is, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	st, err := statOf(f)
	if err != nil {
		return nil, is, err
	}
	if st.Uid != s.owner && (st.Nlink > 1 || st.Mode&0o004 == 0) {
		return nil, is, fmt.Errorf("%s belongs to user %d and %s to user %d: a file of another user must have one link and be readable by all: copy it, or chown the copy",
			want.Name, st.Uid, s.dir.Name(), s.owner)
	}
	if st.Size > most {
		return nil, is, fmt.Errorf("%s has %d bytes, more than %d", want.Name, st.Size, most)
	}
	is, err = stampOf(f)
	return f, is, err
}

// copy copies one file into the image's folder and completes its description.
func (s *source) copy(ctx context.Context, to string, f *File, most int64) error {
	in, before, err := s.open(*f, most)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := fits(in, to); err != nil {
		return err
	}
	got, err := copyOpen(ctx, in, before.Size, filepath.Join(to, f.Name))
	if err != nil {
		return err
	}
	got.Name = f.Name
	if after, err := stampOf(in); err != nil || after != before {
		return errors.Join(err, fmt.Errorf("%s was changed during the copy: build again when nobody writes to it", f.Name))
	}
	if f.Size != 0 && f.Size != got.Size || f.SHA256 != "" && f.SHA256 != got.SHA256 {
		return fmt.Errorf("%s has %d bytes and SHA-256 %s, %s says otherwise", f.Name, got.Size, got.SHA256, ManifestName)
	}
	*f = got
	return nil
}

// fits refuses to begin a copy that the disk has no room for.
func fits(in *os.File, to string) error {
	st, err := statOf(in)
	if err != nil {
		return err
	}
	free, err := sys.FreeBytes(to)
	if need := st.Blocks * 512; err == nil && free < need {
		return mvm.Errorf(mvm.KindUnavailable, "copy %s: %d MiB are free in the image store, %d are needed", in.Name(), free>>20, need>>20)
	}
	return nil
}

func statOf(f *os.File) (*syscall.Stat_t, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("stat %s: no owner", f.Name())
	}
	return st, nil
}

func dirError(ref string, err error) error {
	if mvm.IsKind(err, mvm.KindUnavailable) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("image %s: %w", ref, err)
	}
	return mvm.Errorf(mvm.KindInvalid, "image %s: %w", ref, err).
		WithFix("the folder needs image.json, a kernel, and an initrd or a rootfs: see docs/images.md")
}
