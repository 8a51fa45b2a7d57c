package guest

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/guest/workload"
)

// access says who may read the secrets.
type access struct {
	uid, gid            int
	dirPerm, secretPerm os.FileMode
}

// accessFor chooses who may read /run/secrets. Root always can. When the image's
// services run as exactly one other user, the secrets belong to that user (0400);
// with several, to root and a group that every service has (0440).
func accessFor(users []workload.User) access {
	a := access{dirPerm: 0o500, secretPerm: 0o400}
	var others []workload.User
	for _, u := range users {
		if u.UID != 0 && !slices.ContainsFunc(others, func(o workload.User) bool { return o.UID == u.UID }) {
			others = append(others, u)
		}
	}
	switch len(others) {
	case 0:
		a.uid, a.gid = os.Getuid(), os.Getgid()
	case 1:
		a.uid, a.gid = others[0].UID, others[0].GID
	default:
		a = access{gid: workload.SecretsGID, dirPerm: 0o550, secretPerm: 0o440}
	}
	return a
}

// writeSecrets makes the folder hold exactly the secrets. The new generation is
// written beside it and put in its place in one step, so a reader sees the old or
// the new of each file, never a part, and removed ones are gone. When nothing would
// change, nothing is touched.
func writeSecrets(dir string, secrets map[string][]byte, a access) error {
	for path := range secrets {
		if err := definition.ValidateSecretPath(path); err != nil {
			return err
		}
		if parent, _, ok := strings.Cut(path, "/"); ok && secrets[parent] != nil {
			return mvm.Errorf(mvm.KindInvalid, "secret %q is both a secret and a folder", parent)
		}
	}
	if sameSecrets(dir, secrets, a) {
		return nil
	}
	next := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".next")
	if err := os.RemoveAll(next); err != nil {
		return mvm.Errorf(mvm.KindInternal, "remove old secrets: %w", err)
	}
	err := makeSecrets(next, secrets, a)
	if err == nil {
		err = swap(next, dir)
	}
	// It holds the old generation now, or a part of the new one.
	if rmErr := os.RemoveAll(next); err == nil {
		err = rmErr
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "write secrets: %w", err)
	}
	return nil
}

func makeSecrets(dir string, secrets map[string][]byte, a access) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	dirs := []string{dir}
	for _, path := range slices.Sorted(maps.Keys(secrets)) {
		file := filepath.Join(dir, filepath.FromSlash(path))
		if sub := filepath.Dir(file); sub != dirs[len(dirs)-1] && sub != dir {
			if err := os.Mkdir(sub, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			dirs = append(dirs, sub)
		}
		if err := os.WriteFile(file, secrets[path], 0o400); err != nil {
			return err
		}
		if err := grant(file, a, a.secretPerm); err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(dirs) {
		if err := grant(d, a, a.dirPerm); err != nil {
			return err
		}
	}
	return nil
}

func grant(path string, a access, perm os.FileMode) error {
	if err := os.Lchown(path, a.uid, a.gid); err != nil {
		return err
	}
	return os.Chmod(path, perm)
}

// swap puts the folder next in the place of dir, and what was there in next's.
func swap(next, dir string) error {
	if !exists(dir) {
		return os.Rename(next, dir)
	}
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: next, New: dir, Err: err}
	}
	return nil
}

// sameSecrets reports whether the folder holds exactly these, for the same readers.
func sameSecrets(dir string, secrets map[string][]byte, a access) bool {
	found := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		perm := a.secretPerm
		if d.IsDir() {
			perm = a.dirPerm
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok || int(sys.Uid) != a.uid || int(sys.Gid) != a.gid || st.Mode().Perm() != perm {
			return errDiffers
		}
		if d.IsDir() {
			return nil
		}
		name, _ := filepath.Rel(dir, path)
		want, ok := secrets[name]
		got, err := os.ReadFile(path)
		if err != nil || !ok || !bytes.Equal(got, want) {
			return errDiffers
		}
		found++
		return nil
	})
	return err == nil && found == len(secrets)
}

var errDiffers = errors.New("differs")
