package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/strictjson"
	"mvm/internal/sys"
)

// ManifestName is the file of an image folder that describes the image.
const ManifestName = "image.json"

// FormatVersion is the version of image.json that this package writes; it reads 1 too.
const FormatVersion = 2

const (
	maxManifest  = 64 << 10
	digestPrefix = "sha256:"
)

// WriteManifest writes image.json of a finished image into dir, with the services that the
// image has. The builder calls it last.
func WriteManifest(dir string, img Image) error {
	img.Version, img.Dir = FormatVersion, dir
	if img.Runtime == nil {
		img.Runtime = &Runtime{Guest: true}
	}
	r := *img.Runtime
	r.Services = img.services()
	img.Runtime = &r
	if b, err := json.Marshal(img); err == nil && len(b) > maxManifest/2 {
		r.Services = nil // they are in the image all the same
	}
	return sys.WriteJSON(filepath.Join(dir, ManifestName), img, 0o444)
}

// Measure reads the file dir/name and describes it for image.json.
func Measure(ctx context.Context, dir, name string) (File, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, ctxReader{ctx, f})
	if err != nil {
		return File{}, fmt.Errorf("read image file %s: %w", name, err)
	}
	return File{Name: name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// ctxReader ends a long read when the context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// load reads the image in dir: image.json must be well-formed and its files there
// with the sizes that it says. It does not read the files.
func load(dir string) (Image, error) {
	img, err := readManifest(dir)
	if err != nil {
		return Image{}, err
	}
	for _, f := range img.files() {
		info, err := os.Lstat(filepath.Join(dir, f.Name))
		if err != nil {
			return Image{}, damaged(img, "%w", err)
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return Image{}, damaged(img, "%s is %s of %d bytes, not a regular file of %d", f.Name, info.Mode().Type(), info.Size(), f.Size)
		}
	}
	return img, nil
}

func readManifest(dir string) (Image, error) {
	f, err := os.Open(filepath.Join(dir, ManifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, mvm.Errorf(mvm.KindNotFound, "read image: %w", err)
	}
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return Image{}, err
	}
	img, err := parseManifest(b)
	if err != nil {
		return Image{}, mvm.Errorf(mvm.KindInvalid, "read %s: %w", f.Name(), err)
	}
	if img.Dir, err = filepath.Abs(dir); err != nil {
		return Image{}, err
	}
	sum := sha256.Sum256(b)
	img.Digest = digestPrefix + hex.EncodeToString(sum[:])
	return img, nil
}

func parseManifest(b []byte) (Image, error) {
	var img Image
	if err := decodeStrict(b, &img); err != nil {
		return Image{}, err
	}
	return img, img.validate()
}

// decodeStrict decodes one JSON object whose every field v has.
func decodeStrict(b []byte, v any) error {
	if len(b) > maxManifest {
		return fmt.Errorf("more than %d bytes", maxManifest)
	}
	return strictjson.Unmarshal(b, v)
}

// validate checks what image.json says, without looking at the files.
func (i Image) validate() error {
	if i.Version != 1 && i.Version != FormatVersion {
		return fmt.Errorf("version %d is neither 1 nor %d", i.Version, FormatVersion)
	}
	if i.Version == 1 && i.Runtime != nil {
		return fmt.Errorf("version 1 has no runtime: write version %d", FormatVersion)
	}
	if err := i.Runtime.validate(); err != nil {
		return err
	}
	if i.Arch != "amd64" {
		return fmt.Errorf("architecture %q is not amd64", i.Arch)
	}
	if len(i.Cmdline) > 1024 || strings.ContainsAny(i.Cmdline, "\n\x00") {
		return errors.New("cmdline has more than one line of 1024 bytes")
	}
	if (i.RootFS == nil) != (i.RootFSType == "") {
		return errors.New("rootfs and rootfs_type go together")
	}
	if i.Initrd == (File{}) && i.RootFS == nil {
		return errors.New("neither initrd nor rootfs")
	}
	if t := i.RootFSType; t != "" && t != "erofs" && t != "ext4" {
		return fmt.Errorf("rootfs_type %q is neither erofs nor ext4", t)
	}
	names := map[string]bool{ManifestName: true}
	for _, f := range i.files() {
		if err := f.validate(); err != nil {
			return err
		}
		if names[f.Name] {
			return fmt.Errorf("file name %q is given twice", f.Name)
		}
		names[f.Name] = true
	}
	return nil
}

// The most that a Runtime may name.
const (
	maxPorts        = 256
	maxPreload      = 1000
	maxIntegrations = 64
)

func (r *Runtime) validate() error {
	if r == nil {
		return nil
	}
	if len(r.Ports) > maxPorts || len(r.Preload) > maxPreload || len(r.Integrations) > maxIntegrations || len(r.Services) > definition.Max {
		return fmt.Errorf("runtime names more than %d ports, %d files to preload, %d integrations or %d services", maxPorts, maxPreload, maxIntegrations, definition.Max)
	}
	for _, p := range r.Ports {
		if p < 1 || p > 65535 {
			return fmt.Errorf("runtime: port %d is not in 1..65535", p)
		}
	}
	for _, p := range r.Preload {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return fmt.Errorf("runtime: %.80q to preload is not a clean absolute path", p)
		}
	}
	for _, one := range r.Integrations {
		if err := mvm.ValidateName("integration", one.Name); err != nil {
			return fmt.Errorf("runtime: %w", err)
		}
	}
	return nil
}

func (f File) validateName() error {
	if f.Name == "" || f.Name[0] == '.' || len(f.Name) > 255 || strings.ContainsAny(f.Name, "/\x00") {
		return fmt.Errorf("file name %.80q is not a plain name", f.Name)
	}
	return nil
}

func (f File) validate() error {
	if err := f.validateName(); err != nil {
		return err
	}
	if f.Size <= 0 {
		return fmt.Errorf("file %s has size %d", f.Name, f.Size)
	}
	if sum, err := hex.DecodeString(f.SHA256); err != nil || len(sum) != sha256.Size || strings.ToLower(f.SHA256) != f.SHA256 {
		return fmt.Errorf("file %s: %q is no SHA-256 in lower-case hex", f.Name, f.SHA256)
	}
	return nil
}

func (i Image) files() []File {
	files := []File{i.Kernel}
	if i.Initrd != (File{}) {
		files = append(files, i.Initrd)
	}
	if i.RootFS != nil {
		files = append(files, *i.RootFS)
	}
	return files
}

// Size is what the image's files have together.
func (i Image) Size() int64 {
	var n int64
	for _, f := range i.files() {
		n += f.Size
	}
	return n
}

// Verify reads every file and compares it with its digest.
func (i Image) Verify(ctx context.Context) error {
	for _, want := range i.files() {
		got, err := Measure(ctx, i.Dir, want.Name)
		if err != nil {
			return err
		}
		if got != want {
			return damaged(i, "%s has SHA-256 %s, not %s", want.Name, got.SHA256, want.SHA256)
		}
	}
	return nil
}

func damaged(i Image, format string, args ...any) error {
	return mvm.Errorf(mvm.KindInternal, "image %s (%s) is damaged: %w", i.Digest, i.Name, fmt.Errorf(format, args...)).
		WithFix("build the image again, which replaces the damaged one")
}
