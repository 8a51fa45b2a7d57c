// Package builtin builds mvm's own images on the host, without Nix or docker, from
// Debian packages that the host's apt fetches and verifies:
//
//	builtin:gateway   kernel and an initrd with mvm-guest and the certificates of public CAs
//	builtin:minimal   the same with busybox and a place for a user's command
//	builtin:openclaw  a small Debian userland with Node and OpenClaw as root filesystem
//
// Packages are unpacked, never installed: none of their scripts run on the host.
// What is expensive (kernel, root filesystem) is built once and kept as a part, so
// that a new mvm-guest makes a new initrd only.
package builtin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/image"
)

// version changes whenever the same inputs give other images.
const version = "4"

// scheme is the prefix of this builder's references.
const scheme = "builtin:"

// cmdline is the kernel command line of every built-in image: no second boot after
// a panic, no self-tests, little output on a slow console.
const cmdline = "quiet panic=-1 cryptomgr.notests"

// rootSerial is the serial of the root disk, by which the guest finds it.
const rootSerial = "mvm-root"

// Options say what a Builder works with.
type Options struct {
	// Dir keeps the parts between builds; on the image store's file system, so that
	// images share files with it.
	Dir string
	// GuestBinary is the static mvm-guest for the initrd; see FindGuestBinary.
	GuestBinary string
	Log         *slog.Logger
}

// Builder builds the built-in images. It is safe for concurrent use, also by
// several processes on one Dir.
type Builder struct {
	guest string
	apt   *apt
	parts *parts
}

var (
	_ image.Builder   = (*Builder)(nil)
	_ image.Collector = (*Builder)(nil)
)

// New makes the Options.Dir and returns a Builder.
func New(o Options) (*Builder, error) {
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
	return &Builder{guest: o.GuestBinary, apt: a, parts: p}, nil
}

// Scheme is "builtin:".
func (b *Builder) Scheme() string { return scheme }

// Check implements image.Builder.
func (b *Builder) Check(ref string) error { return checkName(strings.TrimPrefix(ref, scheme)) }

// ReadsHost implements image.Builder: a reference names no file. What a build uses of the
// host, such as a kernel package, no tenant chooses.
func (b *Builder) ReadsHost(string) bool { return false }

func checkName(name string) error {
	switch name {
	case "gateway", "minimal", "openclaw":
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "image %s%s: no such built-in image", scheme, name).
		WithFix("use builtin:gateway, builtin:minimal or builtin:openclaw")
}

// GC removes the parts that no image uses.
func (b *Builder) GC(ctx context.Context) (int64, error) { return b.parts.gc(ctx) }

// inputs are all that an image is made of; their JSON is the key.
type inputs struct {
	Version  string `json:"version"`
	Ref      string `json:"ref"`
	Cmdline  string `json:"cmdline"`
	Guest    string `json:"guest"` // SHA-256 of mvm-guest
	Kernel   deb    `json:"kernel"`
	Busybox  *deb   `json:"busybox,omitempty"`
	Certs    *deb   `json:"certs,omitempty"`
	RootFS   string `json:"rootfs,omitempty"` // key of the part
	openclaw *openclawInputs
}

// inputsOf resolves the reference to exact versions. It needs no network while apt's
// lists are there.
func (b *Builder) inputsOf(ctx context.Context, ref string, progress func(mvm.Progress)) (inputs, error) {
	in := inputs{Version: version, Ref: ref, Cmdline: cmdline}
	name := strings.TrimPrefix(ref, scheme)
	if err := checkName(name); err != nil {
		return in, err
	}
	guest, err := b.guestDigest()
	if err != nil {
		return in, err
	}
	in.Guest = guest
	if in.Kernel, err = b.apt.kernel(ctx, progress); err != nil {
		return in, err
	}
	switch name {
	case "gateway": // its channels speak TLS with the platforms of chats
		certs, err := b.apt.one(ctx, certsPackage, progress)
		if err != nil {
			return in, err
		}
		in.Certs = &certs
	case "minimal":
		bb, err := b.apt.one(ctx, busyboxPackage, progress)
		if err != nil {
			return in, err
		}
		in.Busybox = &bb
	case "openclaw":
		in.Cmdline += " mvm.root=" + rootSerial + " mvm.rootfstype=" + rootfsType
		if in.openclaw, err = b.openclawInputs(ctx, progress); err != nil {
			return in, err
		}
		in.RootFS = in.openclaw.key()
	}
	return in, nil
}

// Key is described at image.Builder.
func (b *Builder) Key(ctx context.Context, ref string) (string, error) {
	in, err := b.inputsOf(ctx, ref, func(mvm.Progress) {})
	if err != nil {
		return "", err
	}
	return hashJSON(in)
}

// Build is described at image.Builder.
func (b *Builder) Build(ctx context.Context, ref, dir string, progress func(mvm.Progress)) error {
	say := func(p mvm.Progress) {
		p.Target = ref
		progress(p)
	}
	in, err := b.inputsOf(ctx, ref, say)
	if err != nil {
		return err
	}
	kernel, err := b.kernelPart(ctx, in.Kernel, say)
	if err != nil {
		return err
	}
	img := image.Image{Name: ref, Arch: "amd64", Cmdline: in.Cmdline}
	if img.Kernel, err = takeFile(ctx, kernel, dir, "vmlinux"); err != nil {
		return err
	}
	rd := initrd{guest: b.guest, kernel: kernel, modules: baseModules}
	if in.Busybox != nil {
		if rd.busybox, err = b.busyboxPart(ctx, *in.Busybox, say); err != nil {
			return err
		}
	}
	if in.Certs != nil {
		if rd.certs, err = b.certsPart(ctx, *in.Certs, say); err != nil {
			return err
		}
	}
	if in.openclaw != nil {
		rootfs, err := b.rootfsPart(ctx, in.openclaw, say)
		if err != nil {
			return err
		}
		f, err := takeFile(ctx, rootfs, dir, rootfsFile)
		if err != nil {
			return err
		}
		img.RootFS, img.RootFSType = &f, rootfsType
		rd.modules = append(rd.modules[:len(rd.modules):len(rd.modules)], rootModules...)
	}
	say(mvm.Progress{Text: "writing the initrd"})
	if img.Initrd, err = rd.write(ctx, dir); err != nil {
		return err
	}
	return image.WriteManifest(dir, img)
}

// takeFile puts a part's file into the image without copying it.
func takeFile(ctx context.Context, part, dir, name string) (image.File, error) {
	if err := image.Link(filepath.Join(part, name), filepath.Join(dir, name)); err != nil {
		return image.File{}, err
	}
	return image.Measure(ctx, dir, name)
}

func (b *Builder) guestDigest() (string, error) {
	if b.guest == "" {
		return "", mvm.Errorf(mvm.KindInternal, "mvm-guest not found; every built-in image needs it").
			WithFix("run make build, or set its path with --guest-binary")
	}
	f, err := os.Open(b.guest)
	if err != nil {
		return "", fmt.Errorf("read the guest agent: %w", err)
	}
	defer f.Close()
	return hashReader(f)
}

func hashJSON(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
