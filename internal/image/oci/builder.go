// Package oci builds images from container images: of a registry, of an OCI layout, or of
// an archive of one or of docker save.
//
// A container image is from a stranger. This process reads its manifest and configuration,
// which are bounded and compared with their digests. A process without rights reads the
// layers (see confine), in memory but for a file without a name that keeps contents, and
// writes one EROFS root filesystem; no path of an image is ever one of the host. Kernel and
// initrd are mvm's own, and the image's configuration becomes a service of the guest.
package oci

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/image"
	"mvm/internal/image/boot"
	"mvm/internal/image/flatten"
	"mvm/internal/sys"
)

// The schemes of references.
const (
	Registry = "oci:"
	Archive  = "oci-archive:"
)

// version changes whenever the same image gives another result.
const version = "1"

const (
	arch       = "amd64"
	rootfsFile = "rootfs.erofs"
	// reserve is what a build leaves free of the disk: kernel and initrd need a part of it.
	reserve = 256 << 20
	// maxUnpacking is how many images are unpacked at the same time.
	maxUnpacking = 2
)

// Options say what a Builder works with.
type Options struct {
	Base *boot.Base
	// Credentials is the path of docker's config.json; "": nobody is logged in.
	Credentials string
	// PrivateRegistries are hosts, with or without a port, that may have addresses that are
	// not public.
	PrivateRegistries []string
	// Adapt returns the files, by path, with which a program that mvm knows works as a guest;
	// none for another program. It is told what an image's configuration runs. nil: none is
	// known.
	Adapt func(definition.Service) (map[string]boot.Added, error)
}

// Builder builds images of one scheme. It is safe for concurrent use.
type Builder struct {
	scheme string
	o      Options

	// turns has a place for each image that is unpacked at the same time: each may take some
	// memory.
	turns chan struct{}
}

// plan is what a reference was found to be: a tag may go on before Build reads it.
type plan struct {
	digest string
	kernel boot.Deb
}

var _ image.Builder = (*Builder)(nil)

// New returns the Builders of Registry and of Archive.
func New(o Options) []image.Builder {
	turns := make(chan struct{}, maxUnpacking)
	return []image.Builder{
		&Builder{scheme: Registry, o: o, turns: turns},
		&Builder{scheme: Archive, o: o, turns: turns},
	}
}

// Scheme implements image.Builder.
func (b *Builder) Scheme() string { return b.scheme }

// Check implements image.Builder.
func (b *Builder) Check(ref string) error {
	rest := strings.TrimPrefix(ref, b.scheme)
	if b.scheme == Registry {
		_, err := parseRef(rest)
		return err
	}
	if !filepath.IsAbs(rest) {
		return mvm.Errorf(mvm.KindInvalid, "image %s: %q is a relative path", ref, rest).
			WithFix("use an absolute path, such as oci-archive:/srv/images/app.tar")
	}
	return nil
}

// ReadsHost implements image.Builder: an archive is a file of the host.
func (b *Builder) ReadsHost(string) bool { return b.scheme == Archive }

func (b *Builder) open(ref string) (source, error) {
	rest := strings.TrimPrefix(ref, b.scheme)
	if b.scheme == Archive {
		return openStored(rest)
	}
	return openRegistry(rest, b.o)
}

// inputs are all that an image is made of; their JSON is the key.
type inputs struct {
	Version string   `json:"version"`
	Image   string   `json:"image"` // digest
	Guest   string   `json:"guest"` // SHA-256 of mvm-guest
	Kernel  boot.Deb `json:"kernel"`
	Added   string   `json:"added,omitempty"` // hash of the files that mvm adds
}

// Resolve reads the image's manifest and configuration.
func (b *Builder) Resolve(ctx context.Context, req image.Request, progress func(mvm.Progress)) (image.Plan, error) {
	src, p, err := b.pull(ctx, req.Ref, "")
	if err != nil {
		return image.Plan{}, err
	}
	if err := src.Close(); err != nil {
		return image.Plan{}, err
	}
	in := inputs{Version: version, Image: p.digest}
	if in.Guest, err = b.o.Base.GuestDigest(); err != nil {
		return image.Plan{}, err
	}
	if added, err := b.adapt(p); err != nil {
		return image.Plan{}, err
	} else if len(added) > 0 {
		if in.Added, err = boot.HashJSON(added); err != nil {
			return image.Plan{}, err
		}
	}
	if in.Kernel, err = b.o.Base.Kernel(ctx, progress); err != nil {
		return image.Plan{}, err
	}
	out := image.Plan{Request: req, Resolved: b.pinned(req.Ref, p.digest), Pinned: plan{p.digest, in.Kernel},
		Inputs: map[string]string{"manifest": p.digest, "mvm-guest": "sha256:" + in.Guest, "kernel": in.Kernel.File}}
	out.Key, err = boot.HashJSON(in)
	return out, err
}

// pinned is the reference with the digest that it names now.
func (b *Builder) pinned(ref, digest string) string {
	if b.scheme != Registry {
		return ref
	}
	r, err := parseRef(strings.TrimPrefix(ref, b.scheme))
	if err != nil {
		return ref
	}
	return b.scheme + r.Context().Name() + "@" + digest
}

// pull opens the source and reads all of the image but its layers. want is the digest that
// it must have, where it is known.
func (b *Builder) pull(ctx context.Context, ref, want string) (source, *pulled, error) {
	src, err := b.open(ref)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, describeTimeout,
		mvm.Errorf(mvm.KindUnavailable, "its description was not there after %s", describeTimeout).WithFix("build again when the registry answers"))
	defer cancel()
	if r, ok := src.(registry); ok && want != "" {
		src = r.at(want)
	}
	p, err := pull(ctx, src, arch)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && want != "" && p.digest != want {
		err = mvm.Errorf(mvm.KindState, "it was %s a moment ago, and is %s now", want, p.digest).WithFix("build again")
	}
	if err != nil {
		return nil, nil, errors.Join(err, src.Close())
	}
	return src, p, nil
}

// Build implements image.Builder.
func (b *Builder) Build(ctx context.Context, to image.Plan, dir string, progress func(mvm.Progress)) error {
	ref := to.Request.Ref
	say := func(p mvm.Progress) {
		p.Target = ref
		progress(p)
	}
	found, ok := to.Pinned.(plan)
	if !ok {
		return mvm.Errorf(mvm.KindInternal, "image %s: build of a plan that is not of this builder", ref)
	}
	src, p, err := b.pull(ctx, ref, found.digest)
	if err != nil {
		return err
	}
	err = b.build(ctx, src, p, build{ref, dir, found.kernel}, say)
	return errors.Join(err, src.Close())
}

// build is what one call of Build makes.
type build struct {
	ref, dir string
	kernel   boot.Deb
}

func (b *Builder) build(ctx context.Context, src source, p *pulled, to build, say func(mvm.Progress)) error {
	release, err := b.turn(ctx, say)
	if err != nil {
		return err
	}
	defer release()
	o := order{Limits: flatten.DefaultLimits(), Folders: mountPoints(p.config.Config.WorkingDir)}
	if o.Limits.Disk, err = room(p, to.dir); err != nil {
		return err
	}
	if o.Service, o.NoService, err = definitionOf(p.config.Config); err != nil {
		return err
	}
	if o.Added, err = b.adapt(p); err != nil {
		return err
	}
	a, err := unpack(ctx, src, p, o, filepath.Join(to.dir, rootfsFile), say)
	if err != nil {
		return err
	}
	if a.LeftOut > 0 {
		b.o.Base.Log().Info("devices, pipes and sockets of an image are left out", "ref", to.ref, "count", a.LeftOut)
	}
	rootfs, err := image.Measure(ctx, to.dir, rootfsFile)
	if err != nil {
		return err
	}
	img := image.Image{Name: to.ref, Arch: arch, Cmdline: boot.RootCmdline, RootFS: &rootfs, RootFSType: boot.RootFSType,
		Runtime: &image.Runtime{Ports: exposed(p.config.Config)}}
	if err := b.o.Base.Boot(ctx, &img, to.dir, boot.Initrd{Kernel: to.kernel, Root: true}, say); err != nil {
		return err
	}
	return image.WriteManifest(to.dir, img)
}

// adapt returns the files of a program that mvm knows, by path.
func (b *Builder) adapt(p *pulled) (map[string]boot.Added, error) {
	s, err := service(p.config.Config)
	if b.o.Adapt == nil || err != nil {
		return nil, err
	}
	return b.o.Adapt(s)
}

// turn waits until the image may be unpacked.
func (b *Builder) turn(ctx context.Context, say func(mvm.Progress)) (release func(), err error) {
	release = func() { <-b.turns }
	select {
	case b.turns <- struct{}{}:
		return release, nil
	default:
	}
	say(mvm.Progress{Text: fmt.Sprintf("waiting: %d other images are unpacked", maxUnpacking)})
	select {
	case b.turns <- struct{}{}:
		return release, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// room is how many bytes of files the disk has room for, twice: for contents, and for an
// image of them. It refuses to begin what needs more for sure.
func room(p *pulled, dir string) (int64, error) {
	need := int64(reserve)
	for _, l := range p.layers {
		need += 2 * l.Size
	}
	free, err := sys.FreeBytes(dir)
	if err != nil {
		return 0, err
	}
	if free < need {
		return 0, mvm.Errorf(mvm.KindUnavailable, "%d MiB are free in the image store, at least %d are needed", free>>20, need>>20).
			WithFix("free space there, or move mvm's data to a larger disk with --data-dir")
	}
	return (free - reserve) / 2, nil
}

// mountPoints are folders that the guest mounts over, or that a service needs.
func mountPoints(workdir string) []orderFolder {
	all := []orderFolder{{"/dev", 0o755}, {"/proc", 0o755}, {"/sys", 0o755}, {"/run", 0o755}, {"/tmp", 0o1777}, {"/data", 0o755}, {"/etc", 0o755}}
	if workdir = filepath.Clean("/" + workdir); workdir != "/" {
		all = append(all, orderFolder{workdir, 0o755})
	}
	return all
}
