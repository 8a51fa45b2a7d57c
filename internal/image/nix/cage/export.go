package cage

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Export returns the command that writes files of a folder to standard output, as a tar
// archive: those with the names, of which some may be missing, or all of them. Links are
// followed, in the cage; what is no regular file is an error, and folders are left out.
func Export(dir string, names ...string) Command {
	return Command{Path: Self, Args: append([]string{ExportName, dir}, names...), Env: []string{"GOTRACEBACK=none"}}
}

func export(out, log io.Writer, args []string) int {
	if len(args) == 0 {
		return 1
	}
	if err := exportFolder(out, args[0], args[1:]); err != nil {
		fmt.Fprintln(log, err)
		return 1
	}
	return 0
}

func exportFolder(w io.Writer, dir string, names []string) error {
	some := len(names) > 0
	if !some {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	t := tar.NewWriter(w)
	for _, name := range names {
		if err := exportFile(t, dir, name); err != nil && !(some && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return t.Close()
}

func exportFile(t *tar.Writer, dir, name string) error {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path) // before it is opened: a pipe would wait
	if err != nil {
		return err
	}
	if info.IsDir() {
		return nil
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is neither a file nor a folder", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	mode := int64(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}
