package manifest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"mvm"
	"mvm/internal/stricttoml"
)

// MaxFileBytes bounds a manifest or config file.
const MaxFileBytes = stricttoml.MaxBytes

// Options say what a manifest may do on this host.
type Options struct {
	// SecretDirs are folders in which a manifest may name secret files by absolute
	// path. By default it may not: only files in its own folder.
	SecretDirs []string
	// Stdin is what the manifest "-" is read from; nil: there is none of that name.
	Stdin io.Reader
	// Remote: the agent is on another machine, where relative references to images name
	// nothing.
	Remote bool
}

// ReadSecret returns the value of the secret file that a manifest names.
type ReadSecret func(path string) ([]byte, error)

// IsPipe reports whether the path is what a shell makes of <(…): it can be read once,
// and is in no folder.
func IsPipe(path string) bool {
	clean := filepath.Clean(path)
	if dir := filepath.Dir(clean); clean != "/dev/stdin" && dir != "/dev/fd" && dir != "/proc/self/fd" {
		return false
	}
	st, err := os.Stat(clean)
	return err == nil && st.Mode()&fs.ModeNamedPipe != 0
}

// folderOf is the folder from which a manifest names files; empty: it has none.
func folderOf(path string) string {
	if IsPipe(path) {
		return ""
	}
	return filepath.Dir(path)
}

// readFile reads a manifest or config file: regular or <(…), and not too large.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, mvm.Errorf(mvm.KindInvalid, "read %s: %w", path, noFile{})
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "read file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() && !IsPipe(path) {
		err = errors.New("it is not a regular file (to read a pipe, use - and pass the manifest on stdin)")
	}
	var data []byte
	if err == nil {
		data, err = readBounded(f, MaxFileBytes)
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "read %s: %w", path, err)
	}
	return data, nil
}

// noFile is fs.ErrNotExist in plain words, without the path, which is told already.
type noFile struct{}

func (noFile) Error() string        { return "there is no such file" }
func (noFile) Is(target error) bool { return target == fs.ErrNotExist }

func readBounded(r io.Reader, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(data) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return data, err
}

// secretFiles reads the secret files of one manifest and remembers which they are.
type secretFiles struct {
	dir  string // of the manifest; empty: it has none
	dirs []string
	read []string
}

// ReadSecret opens a secret file without leaving its folder and returns its
// content without one trailing newline.
func (s *secretFiles) ReadSecret(path string) ([]byte, error) {
	root, name, err := s.place(path)
	if err != nil {
		return nil, err
	}
	s.read = append(s.read, filepath.Join(root, name))
	data, err := readWithin(root, name)
	if err != nil {
		return nil, fmt.Errorf("secret file %q %w", stricttoml.Clip(path), err)
	}
	return data, nil
}

// place returns the folder that the path must stay in and the path from there.
func (s *secretFiles) place(path string) (root, name string, err error) {
	switch {
	case path == "" || strings.ContainsRune(path, 0) || len(path) > 4096:
		return "", "", fmt.Errorf("%q is not the path of a file", stricttoml.Clip(path))
	case !filepath.IsAbs(path) && s.dir == "":
		return "", "", fmt.Errorf("secret file %q is relative to a manifest from stdin or a pipe, which has no folder (use an absolute path, and allow its folder with --secrets-dir)", stricttoml.Clip(path))
	case !filepath.IsAbs(path):
		if !filepath.IsLocal(path) {
			return "", "", fmt.Errorf("secret file %q is outside the manifest's folder (put it there, or beside it)", stricttoml.Clip(path))
		}
		return s.dir, path, nil
	}
	for _, dir := range s.dirs {
		rel, err := filepath.Rel(dir, path)
		if err == nil && filepath.IsLocal(rel) {
			return dir, rel, nil
		}
	}
	return "", "", fmt.Errorf("secret file %q is an absolute path (use one relative to the manifest, or allow its folder with --secrets-dir)", stricttoml.Clip(path))
}

// readWithin reads a regular file with one link, through no symlink at its end and
// none that leads out of the folder on the way.
func readWithin(dir, name string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	defer root.Close()
	before, err := root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	if before.Mode()&fs.ModeSymlink != 0 {
		return nil, errors.New("is a symlink (name the file itself)")
	}
	if !before.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	defer f.Close()
	return readSecretFile(f, before)
}

func readSecretFile(f *os.File, before fs.FileInfo) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	if !os.SameFile(before, st) {
		return nil, errors.New("changed while it was opened")
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Nlink > 1 {
		return nil, errors.New("has more than one hard link (copy it instead)")
	}
	data, err := readBounded(f, mvm.MaxSecretBytes)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	data = trimNewline(data)
	if len(data) == 0 {
		return nil, errors.New("is empty")
	}
	return data, nil
}

// trimNewline removes one trailing newline, as editors and echo leave it.
func trimNewline(b []byte) []byte {
	s := strings.TrimSuffix(string(b), "\n")
	if len(s) < len(b) {
		s = strings.TrimSuffix(s, "\r")
	}
	return []byte(s)
}

// cause strips the path from an error of the file system: the problem names it.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
