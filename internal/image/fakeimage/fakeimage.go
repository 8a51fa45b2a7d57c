// Package fakeimage builds images without content, for the fake driver: nothing
// boots from them. Each reference gives another image.
package fakeimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"sync"

	"mvm"
	"mvm/internal/image"
)

// Builder implements image.Builder for every reference of its scheme.
type Builder struct {
	scheme string
	of     image.Builder // whose references it takes; nil: all of the scheme

	mu     sync.Mutex
	fail   error
	before func(ctx context.Context, plan image.Plan, progress func(mvm.Progress)) error
	built  int
}

// New makes a Builder for a scheme with its colon.
func New(scheme string) *Builder { return &Builder{scheme: scheme} }

// Of makes a Builder that takes and refuses the references that another one does, which
// builds nothing.
func Of(b image.Builder) *Builder { return &Builder{scheme: b.Scheme(), of: b} }

// Fail makes every build from now on fail with err; nil ends that.
func (b *Builder) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

// Before has fn called at the begin of every build from now on, and the build fails with its error;
// nil ends that.
func (b *Builder) Before(fn func(ctx context.Context, plan image.Plan, progress func(mvm.Progress)) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.before = fn
}

// Built counts the builds that were made.
func (b *Builder) Built() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.built
}

// Scheme implements image.Builder.
func (b *Builder) Scheme() string { return b.scheme }

// Check implements image.Builder. By itself it takes every reference but that of "nothere".
func (b *Builder) Check(ref string) error {
	if b.of != nil {
		return b.of.Check(ref)
	}
	if ref == b.scheme+"nothere" {
		return mvm.Errorf(mvm.KindInvalid, "image %s: no such image", ref)
	}
	return nil
}

// ReadsHost implements image.Builder. By itself it has nothing to read.
func (b *Builder) ReadsHost(ref string) bool { return b.of != nil && b.of.ReadsHost(ref) }

// Resolve implements image.Builder: a reference always names the same.
func (b *Builder) Resolve(_ context.Context, req image.Request, _ func(mvm.Progress)) (image.Plan, error) {
	return image.Plan{Request: req, Key: "fake 1 " + req.Ref, Resolved: req.Ref}, nil
}

// Build implements image.Builder.
func (b *Builder) Build(ctx context.Context, plan image.Plan, dir string, progress func(mvm.Progress)) error {
	ref := plan.Request.Ref
	b.mu.Lock()
	before := b.before
	b.mu.Unlock()
	if before != nil {
		if err := before(ctx, plan, progress); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	b.built++
	if progress != nil {
		progress(mvm.Progress{Target: ref, Text: "making an image without content"})
	}
	img := image.Image{Name: ref, Arch: "amd64", Cmdline: "fake mvm.root=mvm-root", RootFS: &image.File{}, RootFSType: "erofs"}
	for _, f := range []struct {
		name string
		to   *image.File
	}{{"vmlinux", &img.Kernel}, {"initrd", &img.Initrd}, {"rootfs", img.RootFS}} {
		content := []byte(f.name + " of " + ref)
		if err := os.WriteFile(filepath.Join(dir, f.name), content, 0o644); err != nil {
			return mvm.Errorf(mvm.KindInternal, "write %s: %w", f.name, err)
		}
		sum := sha256.Sum256(content)
		*f.to = image.File{Name: f.name, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
	}
	if err := image.WriteManifest(dir, img); err != nil {
		return mvm.Errorf(mvm.KindInternal, "write image.json: %w", err)
	}
	return nil
}
