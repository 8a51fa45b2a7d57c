package program

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/cpio"
	"mvm/internal/sys"
)

const (
	archiveName = "files.cpio"
	tempPrefix  = ".mvm-image-"
)

// description is image.json of the folder: files that are added to another image.
type description struct {
	Version int            `json:"version"`
	Name    string         `json:"name"`
	From    string         `json:"from"`
	Archive image.File     `json:"archive"`
	Runtime *image.Runtime `json:"runtime"`
}

const maxDescription = 64 << 10

// replaceable refuses a folder that has something else than an earlier image.
func replaceable(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		parent, err := os.Stat(filepath.Dir(folder))
		if err != nil || !parent.IsDir() {
			return mvm.Errorf(mvm.KindInvalid, "image build: the folder %s, in which the image is to be, does not exist", filepath.Dir(folder)).WithFix("make it with mkdir -p")
		}
		return nil
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "image build: %w", err).WithFix("give the folder of the image with -t dir:FOLDER")
	}
	for _, e := range entries {
		if e.Name() != image.ManifestName && e.Name() != archiveName {
			return mvm.Errorf(mvm.KindInvalid, "image build: folder %s has other files than an image, such as %s", folder, e.Name()).
				WithFix("choose a folder that does not exist yet, such as -t dir:%s", filepath.Join(folder, "image"))
		}
	}
	return nil
}

// write makes the folder beside its place and puts it there in one step, unless it is the
// same as what is there. It returns the digest of image.json.
func (b *build) write(ctx context.Context, folder string) (digest string, changed bool, err error) {
	parent := filepath.Dir(folder)
	sweep(parent)
	tmp, err := os.MkdirTemp(parent, tempPrefix)
	if err != nil {
		return "", false, explain(folder, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	lock, err := hold(tmp)
	if err != nil {
		return "", false, explain(folder, err)
	}
	defer lock.Close()
	archive, err := b.writeArchive(ctx, filepath.Join(tmp, archiveName))
	if err != nil {
		return "", false, explain(folder, err)
	}
	text, err := json.MarshalIndent(description{Version: image.FormatVersion, Name: b.p.Name, From: b.p.From, Archive: archive, Runtime: b.runtime()}, "", "  ")
	if err != nil {
		return "", false, err
	}
	text = append(text, '\n')
	sum := sha256.Sum256(text)
	digest = "sha256:" + hex.EncodeToString(sum[:])
	if same(ctx, folder, text, archive) {
		return digest, false, nil
	}
	if err := errors.Join(sys.WriteFile(filepath.Join(tmp, image.ManifestName), text, 0o644), os.Chmod(tmp, 0o755), sys.SyncDir(tmp)); err != nil {
		return "", false, explain(folder, err)
	}
	if err := sys.Replace(tmp, folder); err != nil {
		return "", false, explain(folder, err)
	}
	return digest, true, nil
}

// runtime says how the image is used.
func (b *build) runtime() *image.Runtime {
	r := &image.Runtime{Guest: true}
	if b.p.Port != 0 {
		r.Ports = []int{b.p.Port}
	}
	return r
}

func (b *build) writeArchive(ctx context.Context, file string) (image.File, error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return image.File{}, err
	}
	h := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(f, h), 1<<20)
	err = b.tree.archive(ctx, cpio.NewWriter(out))
	err = errors.Join(err, out.Flush(), f.Chmod(0o644), f.Sync())
	info, serr := f.Stat()
	if err = errors.Join(err, serr, f.Close()); err != nil {
		return image.File{}, err
	}
	return image.File{Name: archiveName, Size: info.Size(), SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// same reports that the folder has this image already.
func same(ctx context.Context, folder string, text []byte, archive image.File) bool {
	f, err := os.Open(filepath.Join(folder, image.ManifestName))
	if err != nil {
		return false
	}
	defer f.Close()
	old, err := io.ReadAll(io.LimitReader(f, maxDescription))
	if err != nil || !bytes.Equal(old, text) {
		return false
	}
	got, err := image.Measure(ctx, folder, archive.Name)
	return err == nil && got == archive
}

// stale is the age at which what another build left is removed.
const stale = time.Minute

// sweep removes what builds left that were killed: nobody holds their lock.
func sweep(parent string) {
	entries, _ := os.ReadDir(parent) // the next build tries again
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || !strings.HasPrefix(e.Name(), tempPrefix) || time.Since(info.ModTime()) < stale {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		if f, err := hold(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = f.Close()
		}
	}
}

// hold locks the folder of a build until the file is closed.
func hold(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// explain says what to do about an error of the file system.
func explain(folder string, err error) error {
	e := mvm.Errorf(mvm.KindInternal, "image build: %w", err)
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return mvm.Errorf(mvm.KindUnavailable, "image build: %w", err).WithFix("free space for %s; the image that was there is unchanged", folder)
	case errors.Is(err, fs.ErrPermission):
		return mvm.Errorf(mvm.KindPolicy, "image build: %w", err).WithFix("choose a folder that you may write to with -t dir:FOLDER")
	case errors.Is(err, context.Canceled):
		return mvm.Errorf(mvm.KindCanceled, "image build: %w", err)
	}
	return e
}
