// Package owner says to whom of a host's agents its shared things belong: run dirs, the
// networks of a network namespace, and ranges of users. Each belongs to a data dir, also
// while its agent does not run, since VMMs and networks outlive it.
//
// A data dir is known by its mark, which the folder itself gives: its file system, inode
// and time of birth. Every path to a folder gives the same mark, and a copy gives
// another, as it has to be: VMMs hold the files of the one folder open.
//
// A thing is held by the lock on a file, for as long as the agent runs, and the file
// says to whom it belongs. Such a file is in the run dir, or in LockDir, where root
// alone makes files; both are gone with the host's boot, like the VMMs.
package owner

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/sys"
)

// LockDir is where the files are for what no agent's own folder stands for.
const LockDir = "/run/mvm-locks"

// patience is how long an agent that ends may take to let go.
const patience = 5 * time.Second

// Owner is a data dir with the agent that works on it.
type Owner struct {
	Mark    string `json:"mark"`
	DataDir string `json:"data_dir"`
	// Socket is where the agent answers, for those who look for it.
	Socket string `json:"socket,omitempty"`
}

// Mark returns the mark of the folder. KindNotFound when it is not there.
func Mark(dir string) (string, error) {
	var st unix.Statx_t
	const want = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_BTIME
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, want, &st); err != nil {
		kind := mvm.KindInternal
		if errors.Is(err, fs.ErrNotExist) {
			kind = mvm.KindNotFound
		}
		return "", mvm.Errorf(kind, "look at data dir %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", mvm.Errorf(mvm.KindInvalid, "look at data dir %s: it is not a folder", dir)
	}
	if st.Mask&unix.STATX_BTIME == 0 {
		st.Btime = unix.StatxTimestamp{}
	}
	h := sha256.Sum256(fmt.Appendf(nil, "%d:%d %d %d.%d", st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec, st.Btime.Nsec))
	return hex.EncodeToString(h[:8]), nil
}

// Of returns the owner with the data dir, which must be there.
func Of(dataDir, socket string) (Owner, error) {
	mark, err := Mark(dataDir)
	return Owner{Mark: mark, DataDir: dataDir, Socket: socket}, err
}

// Gone reports whether the data dir is no more at its path.
func (o Owner) Gone() bool {
	mark, err := Mark(o.DataDir)
	return err == nil && mark != o.Mark || mvm.IsKind(err, mvm.KindNotFound)
}

// same reports whether both are one owner. The mark is missing in what mvm hostd wrote
// before its agent had made the data dir.
func (o Owner) same(p Owner) bool {
	return o.Mark == p.Mark && o.Mark != "" || o.DataDir == p.DataDir && (o.Mark == "" || p.Mark == "")
}

// none is no owner.
func (o Owner) none() bool { return o == Owner{} }

// Hold is a thing of an owner's, until it is closed.
type Hold struct{ file *os.File }

// Close lets go; the thing still belongs to the owner.
func (h *Hold) Close() error { return h.file.Close() }

// what describes a thing to be taken.
type what struct {
	name string // for errors: "run dir /run/mvm"
	path string // of its file
	wait time.Duration
	// free says whether it may be taken from the owner that its file names, which does
	// not run, and why not.
	free func(of Owner) error
	// fix is what to do when another has it.
	fix string
}

// take holds the thing for the owner. KindState when it belongs to another.
func take(w what, o Owner) (*Hold, error) {
	f, err := sys.LockFile(w.path, w.wait)
	if errors.Is(err, sys.ErrLocked) {
		of, _ := Read(w.path)
		return nil, mvm.Errorf(mvm.KindState, "use %s: %s runs with it", w.name, of).WithFix("%s", w.fix)
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindPolicy, "lock %s: %w", w.name, err).WithFix("remove it if no other agent uses it, and start again")
	}
	if err := belong(f, w, o); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Hold{f}, nil
}

// belong writes the owner into the locked file, unless the thing is another's.
func belong(f *os.File, w what, o Owner) error {
	of, err := decode(f)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "read the owner of %s in %s: %w", w.name, w.path, err).WithFix("remove that file if no other agent runs")
	}
	if !of.same(o) && w.free != nil {
		if err := w.free(of); err != nil {
			return mvm.Errorf(mvm.KindState, "use %s: it belongs to %s: %w", w.name, of, err).WithFix("%s", w.fix)
		}
	}
	if of == o {
		return nil
	}
	b, err := json.Marshal(o)
	if err == nil {
		_, err = f.WriteAt(append(b, '\n'), 0)
	}
	if err == nil {
		err = f.Truncate(int64(len(b)) + 1)
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "write the owner of %s to %s: %w", w.name, w.path, err)
	}
	return nil
}

// String names the owner, for people.
func (o Owner) String() string {
	if o.none() {
		return "another agent"
	}
	return "the agent of data dir " + o.DataDir
}

// maxRecord bounds a file with an owner.
const maxRecord = 16 << 10

// Read returns the owner that the file names; the zero Owner for none.
func Read(path string) (Owner, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Owner{}, nil
	}
	if err != nil {
		return Owner{}, err
	}
	defer f.Close()
	return decode(f)
}

func decode(f *os.File) (o Owner, err error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxRecord))
	if err != nil || len(b) == 0 {
		return o, err
	}
	return o, json.Unmarshal(b, &o)
}

// lockDir makes LockDir, and makes sure that it is root's.
func lockDir() error {
	if err := os.Mkdir(LockDir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return mvm.Errorf(mvm.KindInternal, "make folder of locks: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(LockDir, &st); err != nil {
		return mvm.Errorf(mvm.KindInternal, "look at folder of locks %s: %w", LockDir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != 0 || st.Mode&0o022 != 0 {
		return mvm.Errorf(mvm.KindPolicy, "use folder of locks %s: it must be a folder that only root can write to (user %d, mode %04o)", LockDir, st.Uid, st.Mode&0o7777).
			WithFix("remove it and start again")
	}
	return nil
}

// inLockDir is a file of LockDir, which is made.
func inLockDir(name string) (string, error) { return filepath.Join(LockDir, name), lockDir() }
