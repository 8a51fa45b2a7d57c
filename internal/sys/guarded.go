package sys

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"mvm"
)

// Guard says what a file must be like for its content to be believed.
type Guard struct {
	What    string // names it in errors: "master key"
	Limit   int    // of bytes
	Forbid  uint32 // bits of its mode that must not be set: 0o077 for a secret, 0o022 for what is trusted
	RootToo bool   // it may belong to root as well as to this user
}

// ReadGuarded reads a file whose content decides about trust. It must be a regular
// file, no symlink, of this user (or root), without the forbidden mode bits, at most
// as large as the limit, and in a folder where nobody else can replace it. Anything
// else is KindPolicy, with what to do; a file that is not there is KindInternal and
// wraps fs.ErrNotExist.
func ReadGuarded(path string, g Guard) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, g.refuse(path, "it is a symlink").WithFix("give the path of the file itself")
	case err != nil:
		return nil, mvm.Errorf(mvm.KindInternal, "load %s %s: %w", g.What, path, err)
	}
	defer func() { _ = f.Close() }()
	if err := g.check(path, f); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(g.Limit)+1))
	switch {
	case err != nil:
		return nil, mvm.Errorf(mvm.KindInternal, "load %s %s: %w", g.What, path, err)
	case len(b) > g.Limit:
		return nil, g.refuse(path, "it has more than %d bytes", g.Limit)
	}
	return b, nil
}

func (g Guard) refuse(path, format string, args ...any) *mvm.Error {
	return mvm.Errorf(mvm.KindPolicy, "load %s %s: %s", g.What, path, fmt.Sprintf(format, args...))
}

func (g Guard) check(path string, f *os.File) error {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return mvm.Errorf(mvm.KindInternal, "load %s %s: stat: %w", g.What, path, err)
	}
	me := uint32(os.Geteuid())
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFREG:
		return g.refuse(path, "it is not a regular file")
	case st.Uid != me && !(g.RootToo && st.Uid == 0):
		return g.refuse(path, "it belongs to user %d, and this is user %d", st.Uid, me).WithFix("chown the file")
	case st.Mode&g.Forbid != 0:
		return g.refuse(path, "its mode %04o gives other users access", st.Mode&0o7777).WithFix("run chmod %04o on it", st.Mode&0o7777&^g.Forbid&^0o111)
	}
	return g.CheckFolder(filepath.Dir(path), path)
}

// CheckFolder checks that nobody but this user and root can replace what is in the
// folder; path names what it is asked for. A folder with the sticky bit passes.
func (g Guard) CheckFolder(dir, path string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return mvm.Errorf(mvm.KindInternal, "load %s %s: stat its folder: %w", g.What, path, err)
	}
	switch {
	case st.Uid != uint32(os.Geteuid()) && st.Uid != 0:
		return g.refuse(path, "its folder belongs to user %d", st.Uid).WithFix("move it to a folder that belongs to this user or root")
	case st.Mode&0o022 != 0 && st.Mode&syscall.S_ISVTX == 0:
		return g.refuse(path, "others can write to its folder, mode %04o", st.Mode&0o7777).WithFix("chmod 0755 the folder")
	}
	return nil
}
