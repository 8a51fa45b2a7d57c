package pki

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"mvm"
	"mvm/internal/sys"
)

// Dir is the folder with the certificates of one node or CA. Its methods that write
// take a lock, so that an agent and a command line do not undo each other's work.
type Dir struct {
	path   string
	domain string
}

// At returns the folder at the path, which need not be there yet, for the trust domain.
func At(path, domain string) *Dir { return &Dir{path: path, domain: domain} }

// The files of a Dir.
const (
	caFile      = "ca.pem"
	caKeyFile   = "ca.key"
	crlFile     = "ca.crl"
	issuedFile  = "issued.jsonl"
	nodeFile    = "node.pem"
	pendingFile = "request.key"
	lockName    = ".lock"
)

func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }

// has reports whether the file is there.
func (d *Dir) has(name string) bool {
	_, err := os.Lstat(d.file(name))
	return err == nil
}

// lock makes the folder, and keeps others from writing until the returned function is
// called.
func (d *Dir) lock() (unlock func(), err error) {
	if err := sys.MkdirAll(d.path, 0o700); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make folder of certificates: %w", err)
	}
	f, err := os.OpenFile(d.file(lockName), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, mvm.Errorf(kindOfFile(err), "open lock of certificates: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, mvm.Errorf(mvm.KindInternal, "lock certificates: %w", err)
	}
	if err := d.give(lockName); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// write puts the file in place whole and durable, for the owner of the folder.
func (d *Dir) write(name string, data []byte, perm os.FileMode) error {
	if err := sys.WriteFile(d.file(name), data, perm); err != nil {
		return mvm.Errorf(kindOfFile(err), "write %s: %w", d.file(name), err)
	}
	return d.give(name)
}

// give makes the file the folder owner's where root writes for another user. That user
// may change the folder meanwhile, so only a file that is root's own and has no other
// name is given away.
func (d *Dir) give(name string) error {
	var dir, file syscall.Stat_t
	if os.Geteuid() != 0 || syscall.Stat(d.path, &dir) != nil || dir.Uid == 0 {
		return nil
	}
	f, err := os.OpenFile(d.file(name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return mvm.Errorf(kindOfFile(err), "give %s to the owner of its folder: %w", d.file(name), err)
	}
	defer func() { _ = f.Close() }()
	err = syscall.Fstat(int(f.Fd()), &file)
	switch {
	case err == nil && file.Uid == dir.Uid:
		return nil
	case err == nil && (file.Uid != 0 || file.Nlink != 1 || file.Mode&syscall.S_IFMT != syscall.S_IFREG):
		return mvm.Errorf(mvm.KindPolicy, "give %s to the owner of its folder: it is not a file that was just made", d.file(name))
	case err == nil:
		err = f.Chown(int(dir.Uid), int(dir.Gid))
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "give %s to the owner of its folder: %w", d.file(name), err)
	}
	return nil
}

// read reads a file of the folder, which must be no symlink.
func (d *Dir) read(name string, limit int64, secret bool) ([]byte, error) {
	return readFile(d.file(name), syscall.O_NOFOLLOW, limit, secret)
}

// readFile reads a regular file of at most limit bytes. One with a key must be one that
// no other user can read or write.
func readFile(path string, flags int, limit int64, secret bool) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, mvm.Errorf(kindOfFile(err), "read %s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, mvm.Errorf(mvm.KindInternal, "read %s: %w", path, err)
	case !st.Mode().IsRegular():
		return nil, mvm.Errorf(mvm.KindPolicy, "read %s: it is not a regular file", path)
	case secret && st.Mode().Perm()&0o077 != 0:
		return nil, mvm.Errorf(mvm.KindPolicy, "read %s: its mode %04o gives other users access to the key", path, st.Mode().Perm()).WithFix("run chmod 0600 on it")
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, mvm.Errorf(mvm.KindInternal, "read %s: %w", path, err)
	case int64(len(data)) > limit:
		return nil, mvm.Errorf(mvm.KindInvalid, "read %s: it has more than %d bytes", path, limit)
	}
	return data, nil
}

func kindOfFile(err error) mvm.Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return mvm.KindNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EROFS):
		return mvm.KindPolicy
	}
	return mvm.KindInternal
}

func (d *Dir) remove(name string) error {
	if err := os.Remove(d.file(name)); err != nil {
		return mvm.Errorf(kindOfFile(err), "remove %s: %w", d.file(name), err)
	}
	return nil
}
