package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"strings"

	erofs "github.com/erofs/go-erofs"
	"github.com/klauspost/compress/zstd"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/image/cpio"
	"mvm/internal/image/ext4"
)

// suffix is that of definitions' files.
const suffix = ".json"

// maxUnpacked bounds how much of an initrd is unpacked to look into it.
const maxUnpacked = 1 << 30

// checkServices refuses an image with a service definition that its guest would not start,
// where they can be read: in an ext4 or erofs root file system, else in an initrd that is not
// packed, or with gzip or zstd. What can't be read is no fault of the image: the guest tells when it
// boots.
func checkServices(img Image) error {
	if img.Runtime != nil && !img.Runtime.Guest {
		return mvm.Errorf(mvm.KindInvalid, "image %s: mvm-guest is not inside, as image.json says", img.Name).
			WithFix("add mvm-guest to the image (see docs/guest.md)")
	}
	files, err := img.definitions()
	if err != nil || len(files) == 0 {
		return nil
	}
	_, err = definition.All(files)
	if err == nil {
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "image %s: in %s: %w", img.Name, definition.Dir, err).
		WithFix("fix the definition (see docs/guest.md), and build the image again")
}

// services are those of the image that can be read and run.
func (i Image) services() []definition.Service {
	files, err := i.definitions()
	if err != nil {
		return nil
	}
	all, _ := definition.All(files) // what is wrong is told by checkServices
	return all
}

// definitions are the image's service definitions by name: those of the root filesystem,
// and over them what was added to it, or those of the initrd.
func (i Image) definitions() (map[string][]byte, error) {
	files := map[string][]byte{}
	if i.RootFS != nil {
		inRoot, err := readFrom(i.Path(*i.RootFS), func(f *os.File) (map[string][]byte, error) {
			if i.RootFSType == "ext4" {
				return definitionsOfExt4(f)
			}
			return definitionsOfErofs(f)
		})
		if err != nil {
			return nil, err
		}
		maps.Copy(files, inRoot)
	}
	if i.Initrd == (File{}) {
		return files, nil
	}
	dir := definition.Dir
	if i.RootFS != nil {
		dir = definition.AddedDir + dir
	}
	inInitrd, err := readFrom(i.Path(i.Initrd), func(f *os.File) (map[string][]byte, error) {
		return definitionsOfInitrd(f, dir)
	})
	if err != nil && i.RootFS == nil {
		return nil, err
	}
	maps.Copy(files, inInitrd)
	return files, nil
}

func readFrom(path string, read func(*os.File) (map[string][]byte, error)) (map[string][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f)
}

// definitionsOfExt4 reads those of an ext4.
func definitionsOfExt4(r io.ReaderAt) (map[string][]byte, error) {
	root, err := ext4.Open(r)
	if err != nil {
		return nil, err
	}
	isDefinition := func(name string) bool { return strings.HasSuffix(name, suffix) }
	all, err := root.Files(definition.Dir, isDefinition, definition.Max+1, definition.MaxBytes+1)
	files := map[string][]byte{}
	for name, b := range all {
		files[strings.TrimSuffix(name, suffix)] = b
	}
	return files, err
}

// maxEntries bounds how much of the folder of definitions is looked at.
const maxEntries = 1000

// definitionsOfErofs reads those of an erofs, which may be made to confuse its reader.
func definitionsOfErofs(r io.ReaderAt) (files map[string][]byte, err error) {
	defer func() {
		if what := recover(); what != nil {
			err = fmt.Errorf("read erofs: %v", what)
		}
	}()
	root, err := erofs.Open(r)
	if err != nil {
		return nil, err
	}
	entries, err := firstEntries(root, definition.Dir[1:])
	files = map[string][]byte{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || len(files) > definition.Max {
			continue
		}
		b, rerr := readSome(root, path.Join(definition.Dir[1:], e.Name()))
		files[name], err = b, errors.Join(err, rerr)
	}
	return files, err
}

func firstEntries(root fs.FS, dir string) ([]fs.DirEntry, error) {
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, fmt.Errorf("%s is not a folder", dir)
	}
	entries, err := d.ReadDir(maxEntries)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return entries, err
}

// readSome reads a file, and no more of it than shows that it is too large.
func readSome(root fs.FS, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, definition.MaxBytes+1))
}

// definitionsOfInitrd reads those in the folder dir of the archives of an initrd; of the same
// name the last counts, as for the kernel.
func definitionsOfInitrd(r io.Reader, dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	in := bufio.NewReader(r)
	for {
		more, err := nextArchive(in)
		if err != nil || !more {
			return files, err
		}
		one, closer, err := unpacked(in)
		if err != nil {
			return nil, err
		}
		err = cpio.Read(one, func(e cpio.Entry, content io.Reader) error { return addDefinition(files, dir, e, content) })
		if closer != nil {
			closer()
			return files, err // what is behind a packed archive is read to nobody's use
		}
		if err != nil {
			return nil, err
		}
	}
}

// errElsewhere: a definition leads to another file, which is not followed.
var errElsewhere = errors.New("a definition is a link")

func addDefinition(files map[string][]byte, in string, e cpio.Entry, content io.Reader) error {
	dir, base := path.Split("/" + e.Name)
	if e.Symlink() && strings.HasPrefix(in+"/", "/"+e.Name+"/") {
		return errElsewhere
	}
	name, ok := strings.CutSuffix(base, suffix)
	if !ok || path.Clean(dir) != in {
		return nil
	}
	if !e.Regular() || e.Size == 0 && e.Links > 1 {
		return errElsewhere
	}
	if len(files) > definition.Max {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(content, definition.MaxBytes+1))
	files[name] = b
	return err
}

// nextArchive skips the zeros between archives. It reports false at the end.
func nextArchive(in *bufio.Reader) (bool, error) {
	for {
		b, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if b != 0 {
			return true, in.UnreadByte()
		}
	}
}

// unpacked is the archive that comes next, with what ends the unpacking where it is packed.
func unpacked(in *bufio.Reader) (r io.Reader, closer func(), err error) {
	head, err := in.Peek(6)
	switch {
	case err != nil:
		return nil, nil, err
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return io.LimitReader(z, maxUnpacked), func() { _ = z.Close() }, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, err
		}
		return io.LimitReader(z, maxUnpacked), z.Close, nil
	case bytes.HasPrefix(head, []byte("0707")):
		return in, nil, nil
	}
	return nil, nil, fmt.Errorf("an initrd that begins with %x can't be looked into", head)
}
