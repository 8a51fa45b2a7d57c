package nix

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/nix/cage"
)

// maxFilesOut bounds the files of an output.
const maxFilesOut = 300

// taker takes a file that comes out of a cage.
type taker func(name string, mode os.FileMode, content io.Reader) error

// copyOut takes the files of a folder of the cage: all, or those with the names. What comes
// out of a cage is of a stranger: names are plain, and bytes and files bounded.
func (r *run) copyOut(ctx context.Context, from string, most int64, take taker, names ...string) error {
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := unpack(ctx, in, most, take)
		if err == nil { // padding of the archive
			_, err = io.Copy(io.Discard, in)
		}
		_ = in.CloseWithError(err)
		done <- err
	}()
	err := r.Run(cage.Export(from, names...), func(p []byte) error {
		_, err := out.Write(p)
		return err
	})
	_ = out.CloseWithError(err)
	uerr := <-done
	var failed *cage.ExitError
	if errors.As(err, &failed) {
		return r.explain(err)
	}
	return cmp.Or(err, uerr)
}

func unpack(ctx context.Context, in io.Reader, most int64, take taker) error {
	t := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if most -= h.Size; n >= maxFilesOut || most < 0 {
			return mvm.Errorf(mvm.KindInvalid, "the output has more than %d files, or more bytes than its build was given", maxFilesOut)
		}
		if h.Typeflag != tar.TypeReg || h.Name == "" || h.Name == "." || h.Name == ".." || strings.ContainsAny(h.Name, "/\x00") {
			return mvm.Errorf(mvm.KindInvalid, "the output has the file %.100q", h.Name)
		}
		if err := take(h.Name, os.FileMode(h.Mode&0o755), t); err != nil {
			return err
		}
	}
}

// into takes files into a folder of the host.
func into(dir string) taker {
	return func(name string, mode os.FileMode, content io.Reader) error {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	}
}

// nameImage has image.json name the image after the reference, where it does not itself.
func nameImage(dir, name string) error {
	path := filepath.Join(dir, image.ManifestName)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return mvm.Errorf(mvm.KindInvalid, "the output has no %s", image.ManifestName).WithFix("make one, as docs/nix.md says")
	}
	if err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "%s of the output: %w", image.ManifestName, err)
	}
	if _, ok := fields["name"]; ok {
		return nil
	}
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	if fields["name"], err = json.Marshal(name); err != nil {
		return err
	}
	if b, err = json.Marshal(fields); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// finish makes an image of a folder that came out of a cage.
func (b *Builder) finish(ctx context.Context, req image.Request, from, dir string, progress func(mvm.Progress)) error {
	if err := nameImage(from, req.Ref); err != nil {
		return err
	}
	folder := image.DirBuilder{Bases: b.bases()}
	own := req
	own.Ref = folder.Scheme() + from
	plan, err := folder.Resolve(ctx, own, progress)
	if err == nil {
		plan.Request = own
		err = folder.Build(ctx, plan, dir, progress)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	text := strings.ReplaceAll(strings.ReplaceAll(err.Error(), "image "+own.Ref, "the output"), from, "the output")
	return mvm.Errorf(mvm.KindOf(err), "%s", text)
}

// baseRef is the image to which an output may add files. It chooses no other: the plan could
// not say which one it is.
const baseRef = "builtin:minimal"

// base builds that image alone.
type base struct{ image.Builder }

// Check takes baseRef.
func (b base) Check(ref string) error {
	if ref != baseRef {
		return mvm.Errorf(mvm.KindInvalid, "a flake can't add files to %.80q", ref).WithFix("use %s, or make a whole image", baseRef)
	}
	return b.Builder.Check(ref)
}

func (b *Builder) bases() []image.Builder {
	if b.o.Base == nil {
		return nil
	}
	return []image.Builder{base{b.o.Base}}
}

// baseKey is the key of that image now: what is built over it changes with it.
func (b *Builder) baseKey(ctx context.Context, req image.Request, progress func(mvm.Progress)) (string, error) {
	if b.o.Base == nil {
		return "", nil
	}
	req.Ref = baseRef
	p, err := b.o.Base.Resolve(ctx, req, progress)
	return p.Key, err
}
