// Package nix builds images from Nix flakes: of GitHub, of a git repository over HTTPS, or of
// a folder of the host.
//
// A flake is a program of a stranger. Nix evaluates and builds it in a cage (see package
// cage), whose store is in memory and ends with it. Resolve evaluates it, and finds the
// locked source and the output's path, which is a hash of all that the build is made of.
// Build builds that source, checks that it gives that path, and copies the output's files out:
// a folder in the format of dir: images.
package nix

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/boot"
)

// version changes whenever the same output gives another image.
const version = "1"

// Bounds of every cage.
const (
	maxProcesses = 512
	maxFiles     = 4096
	bytesOfInode = 8 << 10
)

// Options say what a Builder works with.
type Options struct {
	// Base builds builtin:minimal, to which an output may add files; nil: it may not.
	Base image.Builder
	// Substituters are the binary caches that are asked for what a build needs.
	Substituters []string
	// Disk is the size of a cage's store, and Memory what its processes may use beside it, in
	// bytes. Both are memory of the host.
	Disk, Memory int64
	// Within bounds one evaluation, and one build.
	Within time.Duration
	// BuildTimeout and SilentTimeout bound one step of a build: all of it, and what it may take
	// without writing to its log; LogBytes bounds its log.
	BuildTimeout, SilentTimeout time.Duration
	LogBytes                    int64

	// allow is allowPublic, but in tests of this package.
	allow func(netip.Addr, uint16) error
}

// DefaultOptions are those of a host that sets none.
func DefaultOptions() Options {
	return Options{Substituters: []string{"https://cache.nixos.org"}, Disk: 4 << 30, Memory: 4 << 30, Within: time.Hour,
		BuildTimeout: 50 * time.Minute, SilentTimeout: 20 * time.Minute, LogBytes: 16 << 20}
}

func (o Options) inodes() int64 { return o.Disk / bytesOfInode }

// Builder builds images of one scheme. It is safe for concurrent use.
type Builder struct {
	scheme string
	o      Options
}

var _ image.Builder = (*Builder)(nil)

// New returns the Builders of GitHub, Git and Path.
func New(o Options) []image.Builder {
	if o.allow == nil {
		o.allow = allowPublic
	}
	var all []image.Builder
	for _, scheme := range []string{GitHub, Git, Path} {
		all = append(all, &Builder{scheme: scheme, o: o})
	}
	return all
}

// Scheme implements image.Builder.
func (b *Builder) Scheme() string { return b.scheme }

// Check implements image.Builder.
func (b *Builder) Check(ref string) error {
	_, err := parseRef(ref)
	return err
}

// ReadsHost implements image.Builder: a path: is a folder of the host.
func (b *Builder) ReadsHost(string) bool { return b.scheme == Path }

// plan is what a reference was found to be.
type plan struct {
	locked    string // reference in the cage, with the hash of its source
	attribute string
	output    string // path in the store
}

// metadata is what `nix flake metadata` says of a flake.
type metadata struct {
	URL    string `json:"url"`
	Path   string `json:"path"`
	Locked struct {
		NarHash string `json:"narHash"`
		Rev     string `json:"rev"`
		Dir     string `json:"dir"`
	} `json:"locked"`
	Locks json.RawMessage `json:"locks"`
}

// derivation is what an attribute evaluates to.
type derivation struct {
	Type string `json:"type"`
	Drv  string `json:"drv"`
	Out  string `json:"out"`
}

// describe is the function that makes a derivation of an attribute.
const describe = `p: { type = p.type or ""; drv = p.drvPath or ""; out = p.outPath or ""; }`

// Resolve implements image.Builder.
func (b *Builder) Resolve(ctx context.Context, req image.Request, progress func(mvm.Progress)) (_ image.Plan, err error) {
	say := saying(req.Ref, progress)
	ref, err := b.parse(req.Ref)
	if err != nil {
		return image.Plan{}, err
	}
	base, err := b.baseKey(ctx, req, say)
	if err != nil {
		return image.Plan{}, err
	}
	r, err := b.start(ctx, ref, say)
	if err != nil {
		return image.Plan{}, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	say(mvm.Progress{Text: "evaluating the flake in a cage on this host, with Nix " + r.tools.version})
	out, err := r.resolve(ctx, ref, req)
	if err != nil {
		return image.Plan{}, err
	}
	out.Key, err = boot.HashJSON(map[string]string{"version": version, "output": out.Inputs["output"], "base": base})
	return out, err
}

// parse reads a reference of this builder's scheme.
func (b *Builder) parse(ref string) (reference, error) {
	if !strings.HasPrefix(ref, b.scheme) {
		return reference{}, mvm.Errorf(mvm.KindInternal, "image %s: it is not %s", ref, b.scheme)
	}
	r, err := parseRef(ref)
	if err != nil || r.folder == "" {
		return r, err
	}
	info, err := os.Stat(r.folder)
	if err == nil && !info.IsDir() {
		err = errors.New("it is no folder")
	}
	if err != nil {
		return r, mvm.Errorf(mvm.KindInvalid, "image %s: %w", ref, err).WithFix("give the folder of a flake on the agent's host")
	}
	return r, nil
}

// resolve finds out what a request builds.
func (r *run) resolve(ctx context.Context, ref reference, req image.Request) (p image.Plan, err error) {
	var m metadata
	if err := r.ask(&m, "flake", "metadata", "--json", ref.inCage()); err != nil {
		return p, err
	}
	files, err := r.sourceFiles(ctx, m)
	if err != nil {
		return p, err
	}
	attribute, err := attributeOf(req, files[profilesName])
	if err != nil {
		return p, err
	}
	var d derivation
	if err := r.ask(&d, "eval", "--json", m.URL+"#"+attribute, "--apply", describe); err != nil {
		return p, err
	}
	if d.Type != "derivation" || !storePath.MatchString(d.Out) {
		return p, mvm.Errorf(mvm.KindInvalid, "%s of the flake is no derivation", attribute).WithFix("make it one whose output is a folder with image.json: see docs/nix.md")
	}
	p = image.Plan{Request: req, Resolved: ref.pinned(m.URL), Pinned: plan{m.URL, attribute, d.Out}, Inputs: map[string]string{
		"attribute": attribute, "output": d.Out, "derivation": d.Drv, "source": m.Locked.NarHash, "nix": r.tools.version, "isolation": "cage"}}
	if m.Locked.Rev != "" {
		p.Inputs["revision"] = m.Locked.Rev
	}
	lock := files[lockName]
	if lock == nil {
		lock = m.Locks // of a flake without inputs
	}
	sum := sha256.Sum256(lock)
	p.Inputs["lock"] = "sha256:" + hex.EncodeToString(sum[:])
	return p, nil
}

// storePath is a path that a build may have.
var storePath = regexp.MustCompile(`^/nix/store/[0-9a-z]{32}-[0-9A-Za-z+._?=-]{1,211}$`)

// lockName is the lock file of a flake.
const lockName = "flake.lock"

// sourceFiles reads the files of a flake that mvm looks at.
func (r *run) sourceFiles(ctx context.Context, m metadata) (map[string][]byte, error) {
	if !storePath.MatchString(m.Path) {
		return nil, mvm.Errorf(mvm.KindInternal, "nix says that the flake is at %.200q", m.Path)
	}
	files := map[string][]byte{}
	take := func(name string, _ os.FileMode, content io.Reader) (err error) {
		files[name], err = io.ReadAll(content)
		return err
	}
	return files, r.copyOut(ctx, path.Join(m.Path, path.Clean("/"+m.Locked.Dir)), maxSource, take, profilesName, lockName)
}

// maxSource bounds the files of a flake that mvm looks at.
const maxSource = 4 << 20

// Build implements image.Builder.
func (b *Builder) Build(ctx context.Context, to image.Plan, dir string, progress func(mvm.Progress)) (err error) {
	p, ok := to.Pinned.(plan)
	if !ok {
		return mvm.Errorf(mvm.KindInternal, "image %s: build of a plan that is not of this builder", to.Request.Ref)
	}
	say := saying(to.Request.Ref, progress)
	ref, err := b.parse(to.Request.Ref)
	if err != nil {
		return err
	}
	from, err := os.MkdirTemp(filepath.Dir(dir), "output-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(from)) }()
	if err := b.make(ctx, ref, p, from, say); err != nil {
		return err
	}
	return b.finish(ctx, to.Request, from, dir, say)
}

// make builds the plan in a cage and copies the output's files into the folder.
func (b *Builder) make(ctx context.Context, ref reference, p plan, to string, say func(mvm.Progress)) (err error) {
	r, err := b.start(ctx, ref, say)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	say(mvm.Progress{Text: "building " + p.attribute + " in a cage on this host, with Nix " + r.tools.version})
	var built []struct {
		Outputs map[string]string `json:"outputs"`
	}
	if err := r.ask(&built, "build", "--json", "--no-link", p.locked+"#"+p.attribute); err != nil {
		return err
	}
	if len(built) != 1 || built[0].Outputs["out"] != p.output {
		return mvm.Errorf(mvm.KindState, "it gives another output than %s, which it was a moment ago", p.output).WithFix("build again")
	}
	say(mvm.Progress{Text: "copying " + p.output})
	return r.copyOut(ctx, p.output, b.o.Disk, into(to))
}

// saying adds the reference to progress.
func saying(ref string, progress func(mvm.Progress)) func(mvm.Progress) {
	return func(p mvm.Progress) {
		p.Target = ref
		progress(p)
	}
}
