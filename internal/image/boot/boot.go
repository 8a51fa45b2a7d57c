// Package boot makes what every image boots with: Debian's kernel, the modules of it that a
// guest loads, and an initrd with mvm-guest. The host's apt fetches and verifies the
// packages. They are unpacked, never installed: none of their scripts run on the host.
// What is expensive is built once and kept as a part, so that a new mvm-guest makes a new
// initrd only.
package boot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/image"
)

// Cmdline is the kernel command line of every image: no second boot after a panic, no
// self-tests, little output on a slow console.
const Cmdline = "quiet panic=-1 cryptomgr.notests"

// RootFSType is the type of root filesystems.
const RootFSType = "erofs"

// rootSerial is the serial of the root disk, by which the guest finds it.
const rootSerial = "mvm-root"

// RootCmdline is Cmdline for an image with a root filesystem.
const RootCmdline = Cmdline + " mvm.root=" + rootSerial + " mvm.rootfstype=" + RootFSType

// Options say what a Base works with.
type Options struct {
	// Dir keeps the parts between builds; on the image store's file system, so that
	// images share files with it.
	Dir string
	// GuestBinary is the static mvm-guest for the initrd; see FindGuestBinary.
	GuestBinary string
	Log         *slog.Logger
}

// Base makes kernels and initrds. It is safe for concurrent use, also by several processes
// on one Dir.
type Base struct {
	guest string
	apt   *apt
	parts *parts
	log   *slog.Logger
}

// Open makes the Options.Dir and returns a Base.
func Open(o Options) (*Base, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	p, err := openParts(filepath.Join(dir, "parts"), o.Log)
	if err != nil {
		return nil, err
	}
	a, err := openAPT(filepath.Join(dir, "apt"))
	if err != nil {
		return nil, err
	}
	return &Base{guest: o.GuestBinary, apt: a, parts: p, log: o.Log}, nil
}

// Log is where it tells of what is no error.
func (b *Base) Log() *slog.Logger { return b.log }

// GC removes the parts that no image uses and nobody asked for in a day.
func (b *Base) GC(ctx context.Context) (int64, error) { return b.parts.gc(ctx) }

// Part returns the folder of a part. When it is not there, build makes it in an empty
// folder that it is given; need is the space in bytes that this takes.
func (b *Base) Part(ctx context.Context, name, key string, need int64, progress func(mvm.Progress), build func(dir string) error) (string, error) {
	return b.parts.get(ctx, name, key, need, progress, build)
}

// Kernel resolves the kernel's package. It needs no network while apt's lists are there.
func (b *Base) Kernel(ctx context.Context, progress func(mvm.Progress)) (Deb, error) {
	return b.apt.kernel(ctx, progress)
}

// Busybox resolves the package of the static busybox.
func (b *Base) Busybox(ctx context.Context, progress func(mvm.Progress)) (Deb, error) {
	return b.apt.one(ctx, busyboxPackage, progress)
}

// Certs resolves the package of the certificates of public CAs.
func (b *Base) Certs(ctx context.Context, progress func(mvm.Progress)) (Deb, error) {
	return b.apt.one(ctx, certsPackage, progress)
}

// Packages resolves packages and all that they depend on.
func (b *Base) Packages(ctx context.Context, names []string, progress func(mvm.Progress)) ([]Deb, error) {
	return b.apt.closure(ctx, names, progress)
}

// Download fetches exactly these packages into dir.
func (b *Base) Download(ctx context.Context, dir string, debs []Deb, progress func(mvm.Progress)) error {
	return b.apt.download(ctx, dir, debs, progress)
}

// Initrd says what goes into an image's initrd beside mvm-guest and modules.
type Initrd struct {
	Kernel  Deb
	Busybox *Deb // nil: none
	Certs   *Deb // nil: none
	// Root: the guest mounts a root filesystem.
	Root bool
}

// Boot puts kernel and initrd into the image, whose folder is dir.
func (b *Base) Boot(ctx context.Context, img *image.Image, dir string, what Initrd, progress func(mvm.Progress)) error {
	kernel, err := b.kernelPart(ctx, what.Kernel, progress)
	if err != nil {
		return err
	}
	if img.Kernel, err = TakeFile(ctx, kernel, dir, "vmlinux"); err != nil {
		return err
	}
	rd := initrd{guest: b.guest, kernel: kernel, modules: baseModules}
	if what.Busybox != nil {
		if rd.busybox, err = b.busyboxPart(ctx, *what.Busybox, progress); err != nil {
			return err
		}
	}
	if what.Certs != nil {
		if rd.certs, err = b.certsPart(ctx, *what.Certs, progress); err != nil {
			return err
		}
	}
	if what.Root {
		rd.modules = append(rd.modules[:len(rd.modules):len(rd.modules)], rootModules...)
	}
	if img.Runtime == nil {
		img.Runtime = &image.Runtime{}
	}
	img.Runtime.Guest = true
	progress(mvm.Progress{Text: "writing the initrd"})
	img.Initrd, err = rd.write(ctx, dir)
	return err
}

// TakeFile puts a part's file into the image without copying it.
func TakeFile(ctx context.Context, part, dir, name string) (image.File, error) {
	if err := image.Link(filepath.Join(part, name), filepath.Join(dir, name)); err != nil {
		return image.File{}, err
	}
	return image.Measure(ctx, dir, name)
}

// GuestDigest is the SHA-256 of mvm-guest.
func (b *Base) GuestDigest() (string, error) {
	if b.guest == "" {
		return "", mvm.Errorf(mvm.KindInternal, "mvm-guest not found; every image that mvm builds needs it").
			WithFix("run make build, or set its path with --guest-binary")
	}
	f, err := os.Open(b.guest)
	if err != nil {
		return "", fmt.Errorf("read the guest agent: %w", err)
	}
	defer f.Close()
	return HashReader(f)
}

// HashJSON is the SHA-256 of the value's JSON.
func HashJSON(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
