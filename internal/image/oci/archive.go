package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"mvm"
)

// maxArchived bounds the files of an archive. Each layer of docker save has three.
const maxArchived = 20_000

// refName is the annotation with the name of an image in a layout.
const refName = "org.opencontainers.image.ref.name"

// files are those of a folder or an archive.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// stored is an image in an OCI layout, which is a folder or an archive of one, or in an
// archive of docker save.
type stored struct {
	files
	tag string // of several images the one with this name
}

var _ source = stored{}

// openStored opens the folder or archive at the path, which may end with a tag.
func openStored(name string) (source, error) {
	f, err := openPath(name)
	tag := ""
	if i := strings.LastIndex(name, ":"); errors.Is(err, fs.ErrNotExist) && i > strings.LastIndex(name, "/") {
		name, tag = name[:i], name[i+1:]
		f, err = openPath(name)
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "%w", err).WithFix("give an archive of docker save or skopeo copy, or the folder of an OCI layout")
	}
	return stored{f, tag}, nil
}

func openPath(name string) (files, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	switch {
	case err == nil && info.IsDir():
		root, err := os.OpenRoot(name)
		return folder{root}, errors.Join(err, f.Close())
	case err == nil && info.Mode().IsRegular():
		a := archive{file: f, at: map[string]place{}}
		if err = a.scan(); err == nil {
			return a, nil
		}
	case err == nil:
		err = fmt.Errorf("%s is neither a file nor a folder", name)
	}
	return nil, errors.Join(err, f.Close())
}

func (s stored) top(ctx context.Context) ([]byte, *pulled, error) {
	index, err := s.read("index.json", maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		p, err := s.dockerSave()
		return nil, p, err
	}
	if err != nil {
		return nil, nil, err
	}
	var all v1.IndexManifest
	if err := decode(index, &all); err != nil {
		return nil, nil, invalid("read index.json: %w", err)
	}
	if len(all.Manifests) == 0 {
		p, err := s.dockerSave()
		return nil, p, err
	}
	if s.tag == "" && severalPlatforms(all.Manifests) {
		return index, nil, nil
	}
	d, err := s.choose(all.Manifests)
	if err != nil {
		return nil, nil, err
	}
	raw, err := s.manifest(ctx, d)
	if err == nil {
		err = compare("manifest", raw, d.Digest)
	}
	return raw, nil, err
}

// severalPlatforms reports whether all are of one image, each for another platform.
func severalPlatforms(all []v1.Descriptor) bool {
	seen := map[string]bool{}
	for _, d := range all {
		if d.Platform == nil || seen[d.Platform.String()] {
			return false
		}
		seen[d.Platform.String()] = true
	}
	return len(all) > 1
}

// choose returns the image of the tag, or the only one.
func (s stored) choose(all []v1.Descriptor) (v1.Descriptor, error) {
	var have []string
	for _, d := range all {
		name := d.Annotations[refName]
		if s.tag != "" && (name == s.tag || strings.HasSuffix(name, ":"+s.tag)) {
			return d, nil
		}
		have = append(have, name)
	}
	switch {
	case s.tag != "":
		return v1.Descriptor{}, mvm.Errorf(mvm.KindNotFound, "it has no image %.100q, but %s", s.tag, names(have))
	case len(all) == 1:
		return all[0], nil
	}
	return v1.Descriptor{}, invalid("it has %d images: %s", len(all), names(have)).WithFix("add the name of one with a colon, such as oci-archive:/srv/images.tar:v1")
}

func (s stored) manifest(_ context.Context, d v1.Descriptor) ([]byte, error) {
	if !isSHA256(d.Digest.String()) {
		return nil, invalid("digest %.100q is no SHA-256", d.Digest.String())
	}
	return s.read("blobs/sha256/"+d.Digest.Hex, maxManifest)
}

func (s stored) blob(_ context.Context, l layer) (io.ReadCloser, error) {
	name := l.name
	if name == "" {
		if !isSHA256(l.Digest.String()) {
			return nil, invalid("digest %.100q is no SHA-256", l.Digest.String())
		}
		name = "blobs/sha256/" + l.Digest.Hex
	}
	r, size, err := s.open(name)
	if err == nil && size != l.Size {
		return nil, errors.Join(invalid("%.100q has %d bytes, what names it says %d", name, size, l.Size), r.Close())
	}
	return r, err
}

func (s stored) read(name string, most int64) ([]byte, error) {
	r, size, err := s.open(name)
	if err != nil {
		return nil, err
	}
	if size > most {
		return nil, errors.Join(invalid("%.100q has %d bytes, more than %d", name, size, most), r.Close())
	}
	b, err := readAll(r, most)
	return b, errors.Join(err, r.Close())
}

// dockerSave reads manifest.json of docker save, which has the layers' names in the
// archive.
func (s stored) dockerSave() (*pulled, error) {
	raw, err := s.read("manifest.json", maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, invalid("it has neither index.json nor manifest.json, so it is no image")
	}
	if err != nil {
		return nil, err
	}
	var all []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := decode(raw, &all); err != nil {
		return nil, invalid("read manifest.json: %w", err)
	}
	var have []string
	for _, m := range all {
		if s.tag == "" && len(all) == 1 || s.tag != "" && hasTag(m.RepoTags, s.tag) {
			return s.saved(m.Config, m.Layers)
		}
		have = append(have, m.RepoTags...)
	}
	if s.tag != "" {
		return nil, mvm.Errorf(mvm.KindNotFound, "it has no image %.100q, but %s", s.tag, names(have))
	}
	return nil, invalid("it has %d images: %s", len(all), names(have)).WithFix("add the tag of one with a colon, such as oci-archive:/srv/images.tar:v1")
}

func hasTag(all []string, tag string) bool {
	for _, t := range all {
		if t == tag || strings.HasSuffix(t, ":"+tag) {
			return true
		}
	}
	return false
}

func (s stored) saved(config string, layers []string) (*pulled, error) {
	text, err := s.read(path.Clean(config), maxConfig)
	if err != nil {
		return nil, invalid("read the image's configuration: %w", err)
	}
	p := &pulled{digest: digestOf(text)}
	for _, name := range layers {
		r, size, err := s.open(path.Clean(name))
		if err != nil {
			return nil, invalid("open layer %.100q: %w", name, err)
		}
		if err := r.Close(); err != nil {
			return nil, err
		}
		p.layers = append(p.layers, layer{Descriptor: v1.Descriptor{Size: size}, name: path.Clean(name)})
	}
	return p, p.configure(text)
}

// folder is that of an OCI layout.
type folder struct{ *os.Root }

func (d folder) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%.100q is no regular file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// archive is a tar file, whose files are read where they are.
type archive struct {
	file *os.File
	at   map[string]place
}

type place struct {
	at, size int64
	link     string
}

// scan notes where each file is. Their contents are not read.
func (a archive) scan() error {
	r := tar.NewReader(a.file)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive %s: %w", a.file.Name(), err)
		}
		if n >= maxArchived {
			return fmt.Errorf("archive %s has more than %d files", a.file.Name(), maxArchived)
		}
		at, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
				return fmt.Errorf("archive %s: %.100q is sparse", a.file.Name(), h.Name)
			}
			a.at[name] = place{at: at, size: h.Size}
		case tar.TypeSymlink: // docker save has them for layers that are there twice
			a.at[name] = place{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			a.at[name] = place{link: path.Clean(h.Linkname)}
		}
	}
}

func (a archive) open(name string) (io.ReadCloser, int64, error) {
	p, ok := a.at[name]
	if ok && p.link != "" {
		p, ok = a.at[p.link]
	}
	if !ok || p.link != "" {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(a.file, p.at, p.size)), p.size, nil
}

func (a archive) Close() error { return a.file.Close() }
