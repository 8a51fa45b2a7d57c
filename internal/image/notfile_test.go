package image_test

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var discard = slog.New(slog.DiscardHandler)

// notFiles are what may be in the place of a regular file.
var notFiles = map[string]func(t *testing.T, path string){
	"link":     func(t *testing.T, path string) { must(t, os.Symlink(path+".away", path)) },
	"dangling": func(t *testing.T, path string) { must(t, os.Symlink("nowhere", path)) },
	"fifo":     func(t *testing.T, path string) { must(t, unix.Mkfifo(path, 0o644)) },
	"folder":   func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o755)) },
	"socket": func(t *testing.T, path string) {
		t.Chdir(filepath.Dir(path)) // a socket's address is short
		ln, err := net.Listen("unix", filepath.Base(path))
		must(t, err)
		t.Cleanup(func() { ln.Close() })
	},
	"device": func(t *testing.T, path string) {
		if err := unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))); err != nil { // /dev/zero
			must(t, os.Symlink("/dev/zero", path)) // without the right to make one
		}
	},
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
