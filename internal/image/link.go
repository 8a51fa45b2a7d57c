package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func linkCount(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Nlink)
	}
	return 1
}

// Link gives a finished file a second name, or copies it where the file systems
// differ. Both names must stay unchanged.
func Link(from, to string) error {
	err := os.Link(from, to)
	if !errors.Is(err, syscall.EXDEV) && !errors.Is(err, syscall.EMLINK) && !errors.Is(err, syscall.EPERM) {
		return err
	}
	return copyFile(from, to)
}

func copyFile(from, to string) error {
	in, err := openRegular(unix.AT_FDCWD, from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	_, err = copyOpen(context.Background(), in, info.Size(), to)
	return err
}

// syncFile makes the content of a file durable that may be read-only by now.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
