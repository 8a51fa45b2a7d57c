// Package builtin builds mvm's own images on the host, without Nix or docker, from
// Debian packages:
//
//	builtin:gateway   kernel and an initrd with mvm-guest and the certificates of public CAs
//	builtin:minimal   the same with busybox and a place for a user's command
//	builtin:openclaw  a small Debian userland with Node and OpenClaw as root filesystem;
//	                  builtin:openclaw@VERSION has another version of OpenClaw
package builtin

import (
	"context"
	"regexp"
	"strings"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/boot"
)

// version changes whenever the same inputs give other images.
const version = "4"

// scheme is the prefix of this builder's references.
const scheme = "builtin:"

// Builder builds the built-in images. It is safe for concurrent use, also by
// several processes on one Base.
type Builder struct{ base *boot.Base }

var (
	_ image.Builder   = (*Builder)(nil)
	_ image.Collector = (*Builder)(nil)
)

// New returns a Builder.
func New(base *boot.Base) *Builder { return &Builder{base} }

// Scheme is "builtin:".
func (b *Builder) Scheme() string { return scheme }

// Check implements image.Builder.
func (b *Builder) Check(ref string) error { return checkName(strings.TrimPrefix(ref, scheme)) }

// ReadsHost implements image.Builder: a reference names no file. What a build uses of the
// host, such as a kernel package, no tenant chooses.
func (b *Builder) ReadsHost(string) bool { return false }

func checkName(name string) error {
	bare, version, versioned := strings.Cut(name, "@")
	switch {
	case bare != "gateway" && bare != "minimal" && bare != openclawName:
		return mvm.Errorf(mvm.KindInvalid, "image %s%s: no such image is built in", scheme, name).
			WithFix("use builtin:gateway, builtin:minimal or builtin:openclaw")
	case versioned && bare != openclawName:
		return mvm.Errorf(mvm.KindInvalid, "image %s%s: it has no versions", scheme, name).WithFix("use %s%s", scheme, bare)
	case versioned && (len(version) > maxVersion || !openclawVersion.MatchString(version)):
		return mvm.Errorf(mvm.KindInvalid, "image %s%s: %q is not a version of OpenClaw", scheme, name, version).
			WithFix("use one that `npm view openclaw versions` lists, such as builtin:openclaw@2026.8.2")
	}
	return nil
}

const openclawName = "openclaw"

// openclawVersion is a version in npm's form. A tag such as latest is none: it would make an
// image another one without anybody asking for it.
var openclawVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)

const maxVersion = 64

// GC removes the parts of the Base that no image uses.
func (b *Builder) GC(ctx context.Context) (int64, error) { return b.base.GC(ctx) }

// inputs are all that an image is made of; their JSON is the key.
type inputs struct {
	Version  string    `json:"version"`
	Ref      string    `json:"ref"`
	Cmdline  string    `json:"cmdline"`
	Guest    string    `json:"guest"` // SHA-256 of mvm-guest
	Kernel   boot.Deb  `json:"kernel"`
	Busybox  *boot.Deb `json:"busybox,omitempty"`
	Certs    *boot.Deb `json:"certs,omitempty"`
	RootFS   string    `json:"rootfs,omitempty"` // key of the part
	openclaw *openclawInputs
}

// inputsOf resolves the reference to exact versions. It needs no network while apt's
// lists are there.
func (b *Builder) inputsOf(ctx context.Context, ref string, progress func(mvm.Progress)) (inputs, error) {
	in := inputs{Version: version, Ref: ref, Cmdline: boot.Cmdline}
	name := strings.TrimPrefix(ref, scheme)
	if err := checkName(name); err != nil {
		return in, err
	}
	name, wanted, _ := strings.Cut(name, "@")
	guest, err := b.base.GuestDigest()
	if err != nil {
		return in, err
	}
	in.Guest = guest
	if in.Kernel, err = b.base.Kernel(ctx, progress); err != nil {
		return in, err
	}
	switch name {
	case "gateway": // its channels speak TLS with the platforms of chats
		certs, err := b.base.Certs(ctx, progress)
		if err != nil {
			return in, err
		}
		in.Certs = &certs
	case "minimal":
		bb, err := b.base.Busybox(ctx, progress)
		if err != nil {
			return in, err
		}
		in.Busybox = &bb
	case openclawName:
		in.Cmdline = boot.RootCmdline
		if in.openclaw, err = b.openclawInputs(ctx, wanted, progress); err != nil {
			return in, err
		}
		in.RootFS = in.openclaw.key()
	}
	return in, nil
}

// Resolve is described at image.Builder.
func (b *Builder) Resolve(ctx context.Context, req image.Request, progress func(mvm.Progress)) (image.Plan, error) {
	in, err := b.inputsOf(ctx, req.Ref, saying(req.Ref, progress))
	if err != nil {
		return image.Plan{}, err
	}
	p := image.Plan{Request: req, Resolved: req.Ref, Pinned: in, Inputs: map[string]string{"mvm-guest": "sha256:" + in.Guest, "kernel": in.Kernel.File}}
	for name, d := range map[string]*boot.Deb{"busybox": in.Busybox, "certificates": in.Certs} {
		if d != nil {
			p.Inputs[name] = d.File
		}
	}
	if in.RootFS != "" {
		p.Inputs["rootfs"] = in.RootFS
	}
	p.Key, err = boot.HashJSON(in)
	return p, err
}

// saying adds the reference to progress.
func saying(ref string, progress func(mvm.Progress)) func(mvm.Progress) {
	return func(p mvm.Progress) {
		p.Target = ref
		progress(p)
	}
}

// Build is described at image.Builder.
func (b *Builder) Build(ctx context.Context, plan image.Plan, dir string, progress func(mvm.Progress)) error {
	ref := plan.Request.Ref
	in, ok := plan.Pinned.(inputs)
	if !ok {
		return mvm.Errorf(mvm.KindInternal, "image %s: build of a plan that is not of this builder", ref)
	}
	say := saying(ref, progress)
	img := image.Image{Name: ref, Arch: "amd64", Cmdline: in.Cmdline}
	if in.openclaw != nil {
		rootfs, err := b.rootfsPart(ctx, in.openclaw, say)
		if err != nil {
			return err
		}
		f, err := boot.TakeFile(ctx, rootfs, dir, rootfsFile)
		if err != nil {
			return err
		}
		img.RootFS, img.RootFSType = &f, boot.RootFSType
		if in.openclaw.lock.dir != "" { // to be seen, and so that the lock is kept as long as the image
			if _, err := boot.TakeFile(ctx, in.openclaw.lock.dir, dir, lockName); err != nil {
				return err
			}
		}
	}
	what := boot.Initrd{Kernel: in.Kernel, Busybox: in.Busybox, Certs: in.Certs, Root: img.RootFS != nil}
	if err := b.base.Boot(ctx, &img, dir, what, say); err != nil {
		return err
	}
	return image.WriteManifest(dir, img)
}
