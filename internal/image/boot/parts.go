package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	if err := sys.MkdirAll(dir, 0o755); err != nil {
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
	if err = p.checkLocked(ctx, final); err == nil {
		err = p.getLocked(ctx, final, need, build)
	}
	return final, errors.Join(err, lock.Unlock())
}

func (p *parts) getLocked(ctx context.Context, final string, need int64, build func(dir string) error) (err error) {
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
			WithFix("free space there, or move mvm's data to a larger disk with --data-dir")
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := build(tmp); err != nil {
		return err
	}
	if err := writeSums(ctx, tmp); err != nil {
		return err
	}
	if err := syncTree(tmp); err != nil {
		return err
	}
	return sys.Rename(tmp, final)
}

// sumsFile lists a part's files. Images share them by hard links, so what damages a
// file of an image damages the part, and an image that is built again must not take it.
const sumsFile = "sums.json"

// checkLocked removes the part if one of its files is not what was built. A part of an
// older mvm has no list: it gets one of what it is.
func (p *parts) checkLocked(ctx context.Context, final string) error {
	var want []image.File
	b, err := os.ReadFile(filepath.Join(final, sumsFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err = os.Stat(final); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return writeSums(ctx, final)
	}
	if err == nil {
		err = json.Unmarshal(b, &want)
	}
	for _, f := range want {
		if err != nil {
			break
		}
		var got image.File
		if got, err = image.Measure(ctx, final, f.Name); err == nil && got != f {
			err = fmt.Errorf("%s has SHA-256 %s, not %s", f.Name, got.SHA256, f.SHA256)
		}
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	p.log.Warn("damaged image part is built again", "part", filepath.Base(final), "error", err)
	return os.RemoveAll(final)
}

// writeSums lists the files of a part.
func writeSums(ctx context.Context, dir string) error {
	var sums []image.File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := image.Measure(ctx, dir, name)
		sums = append(sums, f)
		return err
	})
	if err != nil {
		return fmt.Errorf("list image part: %w", err)
	}
	return sys.WriteJSON(filepath.Join(dir, sumsFile), sums, 0o444)
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
// asked for in a day. It leaves alone what a build has locked.
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
		lock, err := image.TryExclusive(strings.TrimSuffix(path, partTemp) + ".lock")
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove image part: %w", err))
			continue
		}
		n, err := image.Allocated(path)
		if err = errors.Join(err, os.RemoveAll(path), lock.Unlock()); err != nil {
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
