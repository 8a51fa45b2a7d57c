package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"mvm/internal/sys"
)

// keepFresh is how long GC leaves an image alone that a Build has returned, so that
// its caller can record the digest that keep then claims.
const keepFresh = time.Minute

// GC is described at Store. Builds that begin or end meanwhile, in other processes too, wait
// for it. What a Build returned within the last minute stays. Nothing that a running VMM has
// open is harmed by it.
func (s *DirStore) GC(ctx context.Context, keep func(digest string) bool) (freed int64, err error) {
	l, err := LockExclusive(ctx, s.path("lock"), nil)
	if err != nil {
		return 0, fmt.Errorf("clean image store: %w", err)
	}
	defer func() { err = errors.Join(err, l.Unlock()) }()
	freed, err = s.removeTemp()
	if err != nil {
		return freed, err
	}
	n, err := s.removeImages(ctx, keep)
	freed += n
	if err != nil {
		return freed, err
	}
	s.forgetSums()
	err = s.removeRefs()
	for _, b := range s.builders {
		if c, ok := b.(Collector); ok {
			n, cerr := c.GC(ctx)
			freed += n
			err = errors.Join(err, cerr)
		}
	}
	return freed, err
}

// removeImages removes what keep does not claim, and goes on after an error.
func (s *DirStore) removeImages(ctx context.Context, keep func(digest string) bool) (int64, error) {
	digests, err := s.digests()
	if err != nil {
		return 0, err
	}
	var freed int64
	var errs []error
	for _, d := range digests {
		if ctx.Err() != nil {
			return freed, errors.Join(append(errs, context.Cause(ctx))...)
		}
		if keep(d) || s.fresh(d) {
			continue
		}
		n, err := Allocated(s.imageDir(d))
		if err == nil {
			err = s.discard(s.imageDir(d))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove image %s: %w", d, err))
			continue
		}
		freed += n
		s.log.Info("image removed", "digest", d, "bytes", n)
	}
	return freed, errors.Join(errs...)
}

// fresh reports whether a Build has returned the image just now; see touch.
func (s *DirStore) fresh(digest string) bool {
	info, err := os.Stat(s.imageDir(digest))
	return err == nil && time.Since(info.ModTime()) < keepFresh
}

// touch marks an image as returned by a Build now.
func (s *DirStore) touch(img Image) error {
	now := time.Now()
	return os.Chtimes(img.Dir, now, now)
}

// discard takes an image out of sight at once and then removes it, so that a crash
// leaves no half image under its name.
func (s *DirStore) discard(dir string) error {
	trash, err := os.MkdirTemp(s.path("tmp"), "trash-")
	if err != nil {
		return err
	}
	if err := ignoreMissing(sys.Rename(dir, filepath.Join(trash, "image"))); err != nil {
		return errors.Join(err, os.RemoveAll(trash))
	}
	return os.RemoveAll(trash)
}

func (s *DirStore) removeRefs() error {
	return s.eachRef(func(path string, e refEntry) error {
		if e.Digest != "" {
			if _, err := os.Stat(s.imageDir(e.Digest)); err == nil {
				return nil
			}
		}
		return ignoreMissing(os.Remove(path))
	})
}

// removeTemp removes what builds left that have ended.
func (s *DirStore) removeTemp() (int64, error) {
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return 0, err
	}
	var freed int64
	var errs []error
	for _, e := range entries {
		p := s.path("tmp", e.Name())
		l, err := holdDir(p)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue // its build is under way
		}
		if err != nil {
			errs = append(errs, ignoreMissing(err))
			continue
		}
		n, err := Allocated(p)
		if err = errors.Join(err, os.RemoveAll(p), l.Unlock()); err != nil {
			errs = append(errs, fmt.Errorf("remove what a cut-off build left: %w", err))
			continue
		}
		freed += n
		s.log.Info("removed what a cut-off build left", "path", p, "bytes", n)
	}
	return freed, errors.Join(errs...)
}

// Allocated is what the files below dir hold on disk that would be free without
// them: a file with other links counts nothing.
func Allocated(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreMissing(err)
		}
		links, err := Links(path)
		if err != nil || links > 1 {
			return ignoreMissing(err)
		}
		n, err := sys.AllocatedBytes(path)
		total += n
		return err
	})
	return total, err
}

// Links returns the number of names that the file has.
func Links(path string) (int, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	return linkCount(info), nil
}

// forgetSums forgets the digests of files that are in no image any more.
func (s *DirStore) forgetSums() {
	there := map[inode]bool{}
	digests, err := s.digests()
	for _, d := range digests {
		files, rerr := os.ReadDir(s.imageDir(d))
		err = errors.Join(err, rerr)
		for _, f := range files {
			if info, ierr := f.Info(); ierr == nil {
				if st, ok := info.Sys().(*syscall.Stat_t); ok {
					there[inode{st.Dev, st.Ino}] = true
				}
			}
		}
	}
	if err == nil {
		s.sums.keepOnly(there)
	}
}
