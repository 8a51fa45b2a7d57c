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

	"mvm"
	"mvm/internal/sys"
	"mvm/internal/wait"
)

// DirStore keeps images in a folder of the host:
//
//	sha256-<hex>/   an image, complete
//	refs/<hash>     JSON: which image a reference and key gave
//	locks/<hash>    one lock per request: who holds it builds
//	lock            held for moments: shared by builds that begin or end, alone by GC
//	tmp/            what is being built, each locked by its build; leftovers of a crash go with the next Open or GC
//	logs/<id>.log   what the last builds said of which nobody else keeps a log
//	checked.json    digests of files that did not change since they were read
//
// It is safe for concurrent use, also by several processes.
type DirStore struct {
	dir      string
	builders []Builder
	log      *slog.Logger
	sums     *sums
	limits   Limits
	turns    *wait.Turns
}

var _ Store = (*DirStore)(nil)

// Collector is a Builder that keeps things of its own between builds. GC removes those that
// no image and no build under way uses, and returns the bytes freed.
type Collector interface {
	GC(ctx context.Context) (int64, error)
}

// Open opens the store in dir and makes it when it is not there. It starts nothing,
// so there is nothing to close.
func Open(dir string, builders []Builder, log *slog.Logger) (*DirStore, error) {
	return OpenWith(dir, builders, DefaultLimits(), log)
}

// OpenWith is Open with other limits of builds.
func OpenWith(dir string, builders []Builder, limits Limits, log *slog.Logger) (*DirStore, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &DirStore{dir: dir, builders: builders, log: log, limits: limits, turns: wait.NewTurns(limits.Parallel, limits.PerTenant)}
	for _, d := range []string{dir, s.path("refs"), s.path("locks"), s.path("tmp"), s.path("logs")} {
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
	b, err := BuilderOf(s.builders, ref)
	if err != nil {
		return err
	}
	return b.Check(ref)
}

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
	return img.Verify(ctx)
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
