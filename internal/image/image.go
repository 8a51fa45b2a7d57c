// Package image holds what instances boot from: images, immutable and named by
// digest, and the contract of their builders.
//
// An image is a folder <store>/sha256-<hex>/ with image.json, the kernel, the
// initrd and possibly a root filesystem. The digest is the SHA-256 of image.json,
// which names every file with its size and SHA-256, so it covers all of them. A
// folder appears under its name by a rename, complete or not at all.
package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"mvm"
)

// Image is a built image: the content of image.json and where it is.
type Image struct {
	Version int    `json:"version"` // of this format: 1
	Name    string `json:"name"`    // what it was built from, for people: "builtin:minimal"
	Arch    string `json:"arch"`    // "amd64"
	Cmdline string `json:"cmdline"` // kernel arguments of the image
	Kernel  File   `json:"kernel"`  // an uncompressed vmlinux or a bzImage
	// Initrd is the zero File when the kernel mounts the root filesystem by itself.
	Initrd File `json:"initrd,omitzero"`
	// RootFS is a read-only root filesystem, "" when the initrd is all.
	RootFS *File `json:"rootfs,omitempty"`
	// RootFSType is "erofs" or "ext4".
	RootFSType string `json:"rootfs_type,omitempty"`

	Digest string `json:"-"` // "sha256:<hex>"
	Dir    string `json:"-"` // absolute folder
}

// File is a file of an image.
type File struct {
	Name   string `json:"name"` // within the image's folder, no separator
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// Builder makes images from references of one scheme ("builtin:", "dir:", …).
type Builder interface {
	// Scheme is the prefix of the references it takes, with its colon.
	Scheme() string
	// Check returns KindInvalid for a reference that it can never take, and why. It reads
	// nothing: one that passes may still not be there.
	Check(ref string) error
	// ReadsHost reports whether building the reference may read files of this host that the
	// reference names: an operator alone may ask for that.
	ReadsHost(ref string) bool
	// Key returns a string that changes exactly when a build of ref would give
	// another image (versions of packages, digests of inputs). Cheap.
	Key(ctx context.Context, ref string) (string, error)
	// Build makes the image's files and image.json in dir, an empty folder.
	Build(ctx context.Context, ref, dir string, progress func(mvm.Progress)) error
}

// Store keeps images.
type Store interface {
	// Check returns KindInvalid for a reference that no builder of this host can ever take.
	// It is cheap: one that passes may still not be there.
	Check(ref string) error
	// Build returns the image for a reference, building it unless one with the same
	// key is there. Concurrent builds of one reference are done once; a build that was
	// cut off leaves nothing that counts.
	Build(ctx context.Context, ref string, progress func(mvm.Progress)) (Image, error)
	// Get returns an image by digest, KindNotFound when it is not there.
	Get(digest string) (Image, error)
	// Open opens a file of an image for reading. What it returns has the size and digest
	// that the image says, or did when it was last read: a file whose inode, size, mtime
	// or ctime changed since is read whole. A damaged one is KindInternal, with what it
	// should have been.
	Open(ctx context.Context, img Image, f File) (*os.File, error)
	// List returns every image.
	List() ([]Image, error)
	// GC removes every image that keep does not claim, and what cut-off builds left.
	// It returns the bytes freed.
	GC(ctx context.Context, keep func(digest string) bool) (int64, error)
}

// Resolve checks that a reference has a scheme that some builder takes.
func Resolve(builders []Builder, ref string) (Builder, error) {
	for _, b := range builders {
		if s := b.Scheme(); len(ref) > len(s) && ref[:len(s)] == s {
			return b, nil
		}
	}
	names := make([]string, len(builders))
	for n, b := range builders {
		names[n] = b.Scheme()
	}
	return nil, mvm.Errorf(mvm.KindInvalid, "image reference %q: no builder on this host supports it", ref).
		WithFix("use one that begins with %s", strings.Join(names, " or "))
}

// ReadsHost reports whether building the reference may read files of the host: its builder
// says so, or there is none that could say.
func ReadsHost(builders []Builder, ref string) bool {
	b, err := Resolve(builders, ref)
	return err != nil || b.ReadsHost(ref)
}

// Path returns the absolute path of one of the image's files, "" for the zero File.
func (i Image) Path(f File) string {
	if f == (File{}) {
		return ""
	}
	return filepath.Join(i.Dir, f.Name)
}

// Describe writes what the image is, for people.
func (i Image) Describe(w io.Writer) {
	fmt.Fprintf(w, "%s %s %s\n", i.Digest, i.Name, i.Arch)
}
