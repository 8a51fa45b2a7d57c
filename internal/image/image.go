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
	"mvm/internal/guest/definition"
)

// Image is a built image: the content of image.json and where it is.
type Image struct {
	Version int    `json:"version"` // of this format: 2; 1 has no Runtime
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
	// Runtime says how the image is used; nil: an older mvm has built it.
	Runtime *Runtime `json:"runtime,omitempty"`

	Digest string `json:"-"` // "sha256:<hex>"
	Dir    string `json:"-"` // absolute folder
}

// Runtime is what an image says of how it is used.
type Runtime struct {
	// Guest: mvm-guest is inside.
	Guest bool `json:"guest"`
	// Services are those that the guest starts, with their commands, users, environments and
	// readiness.
	Services []definition.Service `json:"services,omitempty"`
	// Ports are the TCP ports on which they listen.
	Ports []int `json:"ports,omitempty"`
	// Preload are files that a start reads, and Integrations what keeps state of its own.
	Preload      []string          `json:"preload,omitempty"`
	Integrations []mvm.Integration `json:"integrations,omitempty"`
}

// File is a file of an image.
type File struct {
	Name   string `json:"name"` // within the image's folder, no separator
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// Arch is the only architecture of images so far.
const Arch = "amd64"

// Request says which image is wanted, and for what.
type Request struct {
	Ref     string   `json:"ref"`               // reference, as it was given
	Role    mvm.Role `json:"role,omitempty"`    // of the pool
	Profile string   `json:"profile,omitempty"` // of the pool
	Arch    string   `json:"arch,omitempty"`    // "": Arch
	Tenant  string   `json:"tenant,omitempty"`  // for whom; "": for an operator
}

// Stage is how far a build is.
type Stage string

// The stages of a build.
const (
	StageQueued    Stage = "queued"    // it waits for its turn, or for another build of the same image
	StageResolving Stage = "resolving" // what the reference names now is looked up
	StageBuilding  Stage = "building"
)

// Job is a request with who follows what is done for it. Entered and Progress may be nil, and are
// called one at a time.
type Job struct {
	Request Request
	// ID names the build, and Log is the path of a file in which the caller keeps what it says.
	// Without one the store chooses an id and keeps a log itself.
	ID, Log  string
	Entered  func(Stage)
	Progress func(mvm.Progress)
}

// Plan is a request resolved to exactly what will be built.
type Plan struct {
	Request Request
	// Key changes exactly when a build would give another image: versions of packages,
	// digests of inputs, and of the request what the builder looks at.
	Key string
	// Resolved is the reference with what it names now: a digest in place of a tag. It is the
	// reference itself where that can't change.
	Resolved string
	// Inputs are what the image is made of, by name, for its provenance.
	Inputs map[string]string
	// Pinned is the builder's own.
	Pinned any
	// Build is the id of the build and Log the path of what it says: the store sets them.
	Build, Log string
}

// Builder makes images from references of one scheme ("builtin:", "dir:", …). It is safe for
// concurrent use.
type Builder interface {
	// Scheme is the prefix of the references it takes, with its colon.
	Scheme() string
	// Check returns KindInvalid for a reference that it can never take, and why. It reads
	// nothing: one that passes may still not be there.
	Check(ref string) error
	// ReadsHost reports whether building the reference may read files of this host that the
	// reference names: an operator alone may ask for that.
	ReadsHost(ref string) bool
	// Resolve looks up what the request names now. It changes nothing, and is cheap beside
	// Build. KindUnavailable: a source does not answer.
	Resolve(ctx context.Context, req Request, progress func(mvm.Progress)) (Plan, error)
	// Build makes the image's files and image.json in dir, an empty folder: those of the plan,
	// which Resolve has made, or an error where they are not there any more.
	Build(ctx context.Context, plan Plan, dir string, progress func(mvm.Progress)) error
}

// Store keeps images.
type Store interface {
	// Check returns KindInvalid for a reference that no builder of this host can ever take.
	// It is cheap: one that passes may still not be there.
	Check(ref string) error
	// Run returns the image of a request, building it unless one with the same key is
	// there. Concurrent builds of one request are done once; a build that was cut off leaves
	// nothing that counts, and one that fills the disk ends before it is full.
	Run(ctx context.Context, job Job) (Image, error)
	// Get returns an image by digest, KindNotFound when it is not there.
	Get(digest string) (Image, error)
	// Open opens a file of an image for reading. What it returns has the size and digest
	// that the image says, or did when it was last read: a file whose inode, size, mtime
	// or ctime changed since is read whole. A damaged one is KindInternal, with what it
	// should have been.
	Open(ctx context.Context, img Image, f File) (*os.File, error)
	// List returns every image.
	List() ([]Image, error)
	// GC removes every image that keep does not claim, and what cut-off builds left. It does
	// not wait for builds under way, whose files and results it leaves alone. It returns the
	// bytes freed.
	GC(ctx context.Context, keep func(digest string) bool) (int64, error)
}

// BuilderOf returns the builder that takes the reference's scheme.
func BuilderOf(builders []Builder, ref string) (Builder, error) {
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
	b, err := BuilderOf(builders, ref)
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
