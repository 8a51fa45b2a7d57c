package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/sys"
)

// DirStore keeps images in a folder of the host:
//
//	sha256-<hex>/   an image, complete
//	refs/<hash>     JSON: which image a reference and key gave
//	locks/<hash>    one lock per reference: who holds it builds
//	lock            shared by builds, alone for GC
//	tmp/            what is being built; leftovers of a crash go with the next Open or GC
//	checked.json    digests of files that did not change since they were read
//
// It is safe for concurrent use, also by several processes.
type DirStore struct {
	dir      string
	builders []Builder
	log      *slog.Logger
	sums     *sums
}

var _ Store = (*DirStore)(nil)

// Collector is a Builder that keeps things of its own between builds. GC removes
// those that no image uses and returns the bytes freed; no build runs meanwhile.
type Collector interface {
	GC(ctx context.Context) (int64, error)
}

// Open opens the store in dir and makes it when it is not there. It starts nothing,
// so there is nothing to close.
func Open(dir string, builders []Builder, log *slog.Logger) (*DirStore, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &DirStore{dir: dir, builders: builders, log: log}
	for _, d := range []string{dir, s.path("refs"), s.path("locks"), s.path("tmp")} {
		if err := sys.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	// VMMs run as other users and read the images.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s.sums = openSums(s.path("checked.json"), log)
	l, err := tryLock(s.path("lock"), syscall.LOCK_EX)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return s, nil // a build is under way elsewhere: what is in tmp may be its own
	}
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	_, err = s.removeTemp()
	return s, errors.Join(err, l.Unlock())
}

func (s *DirStore) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// Check is described at Store.
func (s *DirStore) Check(ref string) error {
	b, err := Resolve(s.builders, ref)
	if err != nil {
		return err
	}
	return b.Check(ref)
}

// Build is described at Store. When the key can't be computed because a source does
// not answer (KindUnavailable), the newest image of the reference serves.
func (s *DirStore) Build(ctx context.Context, ref string, progress func(mvm.Progress)) (Image, error) {
	if progress == nil {
		progress = func(mvm.Progress) {}
	}
	b, err := Resolve(s.builders, ref)
	if err != nil {
		return Image{}, err
	}
	unlock, err := s.lockRef(ctx, ref, progress)
	if err != nil {
		return Image{}, err
	}
	img, err := s.buildLocked(ctx, b, ref, progress)
	if err == nil {
		err = s.touch(img)
	}
	return img, errors.Join(s.explain(ref, err), unlock())
}

// lockRef waits until nobody else builds ref, and keeps GC away.
func (s *DirStore) lockRef(ctx context.Context, ref string, progress func(mvm.Progress)) (unlock func() error, err error) {
	shared, err := LockShared(ctx, s.path("lock"), func() {
		progress(mvm.Progress{Target: ref, Text: "waiting for the image store to be cleaned up"})
	})
	if err != nil {
		return nil, err
	}
	own, err := LockExclusive(ctx, s.path("locks", hash(ref)), func() {
		progress(mvm.Progress{Target: ref, Text: "waiting for another build of the same image"})
	})
	if err != nil {
		return nil, errors.Join(err, shared.Unlock())
	}
	return func() error { return errors.Join(own.Unlock(), shared.Unlock()) }, nil
}

func (s *DirStore) buildLocked(ctx context.Context, b Builder, ref string, progress func(mvm.Progress)) (Image, error) {
	key, err := b.Key(ctx, ref)
	if mvm.IsKind(err, mvm.KindUnavailable) {
		if img, ok := s.newest(ctx, ref); ok {
			progress(mvm.Progress{Target: ref, Text: fmt.Sprintf("using the image built before: %v", err)})
			s.log.Warn("image may be outdated", "ref", ref, "digest", img.Digest, "error", err)
			return img, nil
		}
	}
	if err != nil {
		return Image{}, fmt.Errorf("look up image %s: %w", ref, err)
	}
	if img, ok := s.lookup(ctx, ref, key); ok {
		return img, nil
	}
	start := time.Now()
	progress(mvm.Progress{Target: ref, Text: "building"})
	img, err := s.make(ctx, b, ref, progress)
	if err != nil {
		return Image{}, err
	}
	entry := refEntry{Ref: ref, Key: key, Digest: img.Digest, Built: start.UTC()}
	if err := sys.WriteJSON(s.refPath(ref, key), entry, 0o644); err != nil {
		return Image{}, err
	}
	took := time.Since(start)
	s.log.Info("image built", "ref", ref, "digest", img.Digest, "bytes", img.Size(), "took", took)
	progress(mvm.Progress{Target: ref, Text: fmt.Sprintf("built %.19s in %.1f s, %d MiB", img.Digest, took.Seconds(), img.Size()>>20)})
	return img, nil
}

// make builds into a folder of its own, checks what came out, and publishes it.
func (s *DirStore) make(ctx context.Context, b Builder, ref string, progress func(mvm.Progress)) (_ Image, err error) {
	tmp, err := os.MkdirTemp(s.path("tmp"), "build-")
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	dir := filepath.Join(tmp, "image")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return Image{}, err
	}
	if err := b.Build(ctx, ref, dir, progress); err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", ref, err)
	}
	img, err := load(dir)
	if err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", ref, err)
	}
	if err := checkServices(img); err != nil {
		return Image{}, err
	}
	if err := seal(img); err != nil {
		return Image{}, err
	}
	if err := s.check(ctx, img); err != nil {
		return Image{}, err
	}
	return s.publish(ctx, img)
}

// seal makes the image's files read-only and durable.
func seal(img Image) error {
	for _, f := range append(img.files(), File{Name: ManifestName}) {
		p := filepath.Join(img.Dir, f.Name)
		if err := errors.Join(os.Chmod(p, 0o444), syncFile(p)); err != nil {
			return err
		}
	}
	return errors.Join(sys.SyncDir(img.Dir), os.Chmod(img.Dir, 0o755))
}

// publish gives the folder its name, durably. An image of the same digest that is
// there and whole stays; a damaged one is replaced.
func (s *DirStore) publish(ctx context.Context, img Image) (Image, error) {
	final := s.imageDir(img.Digest)
	if old, err := s.Get(img.Digest); err == nil {
		if err = s.check(ctx, old); err == nil {
			return old, nil
		}
		if ctx.Err() != nil {
			return Image{}, err
		}
		s.log.Warn("damaged image is replaced", "digest", img.Digest, "error", err)
	}
	if err := s.discard(final); err != nil {
		return Image{}, err
	}
	if err := sys.Rename(img.Dir, final); err != nil {
		return Image{}, err
	}
	img.Dir = final
	return img, nil
}

// explain adds what to do when the disk is full, which builders run into in many ways.
func (s *DirStore) explain(ref string, err error) error {
	if err == nil {
		return nil
	}
	free, ferr := sys.FreeBytes(s.dir)
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) && (ferr != nil || free > lowSpace) {
		return err
	}
	return mvm.Errorf(mvm.KindUnavailable, "build image %s: no space left in %s (%d MiB free): %w", ref, s.dir, free>>20, err).
		WithFix("free space there, or move mvm's data to a larger disk with --data-dir")
}

const lowSpace = 1 << 20

// Get is described at Store. It checks that every file is there with its size; Open
// and Verify read them too.
func (s *DirStore) Get(digest string) (Image, error) {
	hexsum, ok := strings.CutPrefix(digest, digestPrefix)
	if sum, err := hex.DecodeString(hexsum); !ok || err != nil || len(sum) != sha256.Size {
		return Image{}, mvm.Errorf(mvm.KindInvalid, "image digest %.80q is not %s and 64 hex digits", digest, digestPrefix)
	}
	img, err := load(s.imageDir(digest))
	if mvm.IsKind(err, mvm.KindNotFound) {
		return Image{}, mvm.Errorf(mvm.KindNotFound, "image %s is not in %s", digest, s.dir).
			WithFix("build the pool's image again with mvm pool build")
	}
	if err != nil {
		return Image{}, err
	}
	if img.Digest != digest {
		return Image{}, damaged(img, "%s was changed: its folder is named %s", ManifestName, filepath.Base(img.Dir))
	}
	return img, nil
}

// Verify reads all of an image and compares it with its digest.
func (s *DirStore) Verify(ctx context.Context, digest string) error {
	img, err := s.Get(digest)
	if err != nil {
		return err
	}
	return img.verify(ctx)
}

// List is described at Store. Damaged images are left out and logged.
func (s *DirStore) List() ([]Image, error) {
	digests, err := s.digests()
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, d := range digests {
		img, err := s.Get(d)
		if err != nil {
			s.log.Warn("image left out", "digest", d, "error", err)
			continue
		}
		images = append(images, img)
	}
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Digest, b.Digest))
	})
	return images, nil
}

func (s *DirStore) imageDir(digest string) string {
	return s.path(strings.Replace(digest, ":", "-", 1))
}

func (s *DirStore) digests() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var digests []string
	for _, e := range entries {
		if h, ok := strings.CutPrefix(e.Name(), "sha256-"); ok && len(h) == 2*sha256.Size {
			digests = append(digests, digestPrefix+h)
		}
	}
	return digests, nil
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// ignoreMissing is for removals that another process may have done.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
