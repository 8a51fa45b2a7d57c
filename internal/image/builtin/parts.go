package builtin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/sys"
)

// keepUnused is how long GC leaves a part alone that no image links to: parts whose
// files are only copied into images look unused.
const keepUnused = 24 * time.Hour

const partTemp = ".part"

// parts keeps expensive pieces of images in folders named <name>-<key>. A folder
// appears by a rename, complete or not at all.
type parts struct {
	dir string
	log *slog.Logger
}

func openParts(dir string, log *slog.Logger) (*parts, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open image parts: %w", err)
	}
	return &parts{dir: dir, log: log}, nil
}

// get returns the folder of a part. When it is not there, build makes it in an empty
// folder that it is given; need is the space in bytes that this takes. Concurrent
// calls for one part build it once.
func (p *parts) get(ctx context.Context, name, key string, need int64, progress func(mvm.Progress), build func(dir string) error) (string, error) {
	final := filepath.Join(p.dir, name+"-"+key[:min(len(key), 32)])
	lock, err := image.LockExclusive(ctx, final+".lock", func() {
		progress(mvm.Progress{Text: "waiting for " + name + ", which is being built already"})
	})
	if err != nil {
		return "", err
	}
	err = p.getLocked(final, need, build)
	return final, errors.Join(err, lock.Unlock())
}

func (p *parts) getLocked(final string, need int64, build func(dir string) error) (err error) {
	now := time.Now()
	if err := os.Chtimes(final, now, now); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := final + partTemp
	if err := os.RemoveAll(tmp); err != nil { // of a build that was cut off
		return err
	}
	if free, err := sys.FreeBytes(p.dir); err == nil && free < need {
		return mvm.Errorf(mvm.KindUnavailable, "build %s: %d MiB are free in %s, %d are needed", filepath.Base(final), free>>20, p.dir, need>>20).
			WithFix("free space there, or keep mvm's data on a larger disk with --data-dir")
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := build(tmp); err != nil {
		return err
	}
	if err := syncTree(tmp); err != nil {
		return err
	}
	return sys.Rename(tmp, final)
}

// syncTree makes the files of a finished part durable and read-only.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return sys.SyncDir(path)
		case d.Type().IsRegular():
			return errors.Join(os.Chmod(path, 0o444), sys.SyncDir(path))
		}
		return nil
	})
}

// gc removes what cut-off builds left, and parts that no image links to and nobody
// asked for in a day. The image store sees to it that no build runs.
func (p *parts) gc(ctx context.Context) (int64, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return 0, err
	}
	var freed int64
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			return freed, errors.Join(append(errs, context.Cause(ctx))...)
		}
		path := filepath.Join(p.dir, e.Name())
		if !e.IsDir() || !strings.HasSuffix(path, partTemp) && p.used(path, e) {
			continue
		}
		n, err := image.Allocated(path)
		if err = errors.Join(err, os.RemoveAll(path)); err != nil {
			errs = append(errs, fmt.Errorf("remove image part: %w", err))
			continue
		}
		freed += n
		p.log.Info("image part removed", "path", path, "bytes", n)
	}
	return freed, errors.Join(errs...)
}

// used reports whether an image links to a file of the part, or it was asked for
// lately. A part that can't be read counts as used.
func (p *parts) used(path string, e fs.DirEntry) bool {
	info, err := e.Info()
	if err != nil || time.Since(info.ModTime()) < keepUnused {
		return true
	}
	files, err := os.ReadDir(path)
	if err != nil {
		return true
	}
	for _, f := range files {
		if n, err := image.Links(filepath.Join(path, f.Name())); f.Type().IsRegular() && (err != nil || n > 1) {
			return true
		}
	}
	return false
}
