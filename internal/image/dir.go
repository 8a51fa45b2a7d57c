package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"mvm"
)

// DirBuilder takes an image that somebody made: "dir:<folder>", a folder with
// image.json and the files that it names. The folder is copied: changing it later
// changes nothing until the next build. Fields that a person can't easily write are
// filled in: version, sizes and digests may be left out of image.json.
type DirBuilder struct{}

var _ Builder = DirBuilder{}

// Scheme is "dir:".
func (DirBuilder) Scheme() string { return "dir:" }

// Check takes every folder; whether it is there shows when it is built.
func (DirBuilder) Check(string) error { return nil }

// Key covers image.json and the size and time of each of its files.
func (DirBuilder) Key(_ context.Context, ref string) (string, error) {
	dir, img, err := readDirRef(ref)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(img); err != nil {
		return "", err
	}
	for _, f := range img.files() {
		info, err := statPlain(filepath.Join(dir, f.Name))
		if err != nil {
			return "", dirError(ref, err)
		}
		fmt.Fprintf(h, "\n%s %d %d", f.Name, info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Build copies the folder's files. Where image.json gives a size or digest, the file
// must have it.
func (DirBuilder) Build(ctx context.Context, ref, dir string, progress func(mvm.Progress)) error {
	from, img, err := readDirRef(ref)
	if err != nil {
		return err
	}
	targets := []*File{&img.Kernel}
	if img.Initrd != (File{}) {
		targets = append(targets, &img.Initrd)
	}
	if img.RootFS != nil {
		targets = append(targets, img.RootFS)
	}
	for _, f := range targets {
		progress(mvm.Progress{Target: ref, Text: "copying " + f.Name})
		if err := copyMeasured(ctx, from, dir, f); err != nil {
			return dirError(ref, err)
		}
	}
	img.Version = FormatVersion
	if err := img.validate(); err != nil {
		return dirError(ref, err)
	}
	return WriteManifest(dir, img)
}

// copyMeasured copies one file and completes its description.
func copyMeasured(ctx context.Context, from, to string, f *File) error {
	if _, err := statPlain(filepath.Join(from, f.Name)); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(from, f.Name), filepath.Join(to, f.Name)); err != nil {
		return err
	}
	got, err := Measure(ctx, to, f.Name)
	if err != nil {
		return err
	}
	if f.Size != 0 && f.Size != got.Size || f.SHA256 != "" && f.SHA256 != got.SHA256 {
		return fmt.Errorf("%s has %d bytes and SHA-256 %s, %s says otherwise", f.Name, got.Size, got.SHA256, ManifestName)
	}
	*f = got
	return nil
}

// readDirRef reads the folder's image.json, in which sizes and digests may be missing.
func readDirRef(ref string) (string, Image, error) {
	dir, err := filepath.Abs(strings.TrimPrefix(ref, DirBuilder{}.Scheme()))
	if err != nil {
		return "", Image{}, dirError(ref, err)
	}
	path := filepath.Join(dir, ManifestName)
	if _, err := statPlain(path); err != nil {
		return "", Image{}, dirError(ref, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", Image{}, dirError(ref, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return "", Image{}, dirError(ref, err)
	}
	img, err := decodeManifest(b)
	if err != nil {
		return "", Image{}, dirError(ref, fmt.Errorf("%s: %w", ManifestName, err))
	}
	for _, f := range img.files() {
		if err := f.validateName(); err != nil {
			return "", Image{}, dirError(ref, err)
		}
	}
	if img.Name == "" {
		img.Name = ref
	}
	if img.Arch == "" {
		img.Arch = "amd64"
	}
	return dir, img, nil
}

func statPlain(path string) (os.FileInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return info, nil
}

func dirError(ref string, err error) error {
	return mvm.Errorf(mvm.KindInvalid, "image %s: %w", ref, err).
		WithFix("the folder needs image.json, a kernel, and an initrd or a rootfs, as docs/images.md says")
}
