package firecracker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/rundir"
	"mvm/internal/sys"
)

// stagingName is the file in the instance's folder to which Firecracker writes memory.
const stagingName = "vmm.memory"

// own is what the driver notes in the record.
type own struct {
	Dir string `json:"dir"` // of the instance
	// Diff: the next snapshot may be of what changed alone.
	Diff bool `json:"diff"`
}

func ownOf(rec rundir.Record) (o own) {
	_ = json.Unmarshal(rec.Own, &o) // what can't be read is not known
	return o
}

func (o own) raw() json.RawMessage {
	b, _ := json.Marshal(o) // a string and a bool
	return b
}

// makeStaging makes the file anew.
func makeStaging(s driver.Spec) (f *os.File, err error) {
	err = sys.InFolder(s.Dir, func(d *sys.Folder) (err error) {
		f, err = d.Create(stagingName)
		return err
	})
	return f, mvm.Explain("make a file for the VMM's memory", err)
}

// removeStaging removes the file of a VMM that is gone. Sweep knows the folder from the
// record alone, which no VMM can write.
func removeStaging(s driver.Spec, rec rundir.Record) error {
	dir := s.Dir
	if dir == "" {
		dir = ownOf(rec).Dir
	}
	if dir == "" {
		return nil
	}
	return sys.IfThere(sys.InFolder(dir, func(d *sys.Folder) error { return d.Remove(stagingName) }))
}

// memoryOf opens the memory file that is there. The QEMU driver may have given it to the
// VMM's user.
func memoryOf(s driver.Spec, flag int) (f *os.File, err error) {
	err = sys.InParent(s.Dir, s.Memory, func(d *sys.Folder, name string) (err error) {
		f, err = d.Open(name, flag, s.UID)
		return err
	})
	return f, err
}

// openMemory opens the memory file of a snapshot, which has all of the memory. Its VMM maps
// it privately: the content is not touched.
func openMemory(s driver.Spec) (*os.File, error) {
	f, err := memoryOf(s, os.O_RDONLY)
	if err != nil {
		return nil, rundir.OpenError("memory file", err)
	}
	if err := wholeSize(s, f, "memory file"); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func wholeSize(s driver.Spec, f *os.File, what string) error {
	st, err := f.Stat()
	if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "look at the snapshot's %s: %w", what, err)
	}
	if size := int64(s.MemMiB) << 20; st.Size() != size {
		return rundir.BadSnapshot("open the snapshot's %s %s: it has %d bytes, the instance %d", what, f.Name(), st.Size(), size)
	}
	return nil
}

// removeMemory removes the memory file if it is there.
func removeMemory(s driver.Spec) error {
	return sys.IfThere(sys.InParent(s.Dir, s.Memory, (*sys.Folder).RemoveAll))
}

// settle has the memory file hold all of the snapshot's memory. No VMM may run: one that
// does maps the file. It may be cut off, and run again; until it is done, the rest of the
// memory is beside the state.
func settle(s driver.Spec, snap driver.Snapshot) error {
	if err := rundir.TakeWhole(s, snap); err != nil {
		return err
	}
	var diff *os.File
	err := sys.InParent(s.Dir, snap.Pages(), func(d *sys.Folder, name string) (err error) {
		diff, err = d.Open(name, os.O_RDONLY)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return rundir.OpenError("changed pages", err)
	}
	defer diff.Close()
	if err := wholeSize(s, diff, "changed pages"); err != nil {
		return err
	}
	memory, err := memoryOf(s, os.O_RDWR)
	if err != nil {
		return rundir.OpenError("memory file", err)
	}
	err = wholeSize(s, memory, "memory file")
	if err == nil {
		err = overlay(memory, diff)
	}
	if err == nil {
		err = memory.Sync()
	}
	if err = errors.Join(err, memory.Close()); driver.BadSnapshot(err) {
		return err
	} else if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "put changed pages into the memory file: %w", err)
	}
	return sys.InParent(s.Dir, snap.Pages(), func(d *sys.Folder, name string) error { return errors.Join(d.Remove(name), d.Sync()) })
}

// chunk is how much is copied at once, and a page the smallest part that is left out.
const (
	chunk = 1 << 20
	page  = 4096
)

// copyWhole writes what src has into the empty file dst, of the same size, but for pages of
// zeros.
func copyWhole(dst, src *os.File, size int64) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	return eachData(src, size, func(b []byte, at int64) error { return eachPage(b, at, dst, nil) })
}

// copyData writes what src has into the empty file dst, of the same size, pages of zeros too:
// where src has none, dst has none either.
func copyData(dst, src *os.File, size int64) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	return eachData(src, size, func(b []byte, at int64) error {
		_, err := dst.WriteAt(b, at)
		return err
	})
}

// overlay writes what src has over the content of dst. A page of zeros takes no space there.
func overlay(dst, src *os.File) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	return eachData(src, st.Size(), func(b []byte, at int64) error { return eachPage(b, at, dst, punch) })
}

// eachPage writes the pages of b that are not of zeros, and calls zeros, where it is not
// nil, with the others, several at once.
func eachPage(b []byte, at int64, dst *os.File, zeros func(f *os.File, at, n int64) error) error {
	zeroPage := make([]byte, page)
	isZero := func(b []byte) bool { return bytes.Equal(b, zeroPage[:len(b)]) }
	for len(b) > 0 {
		zero, n := isZero(b[:min(page, len(b))]), min(page, len(b))
		for n < len(b) && isZero(b[n:min(n+page, len(b))]) == zero {
			n = min(n+page, len(b))
		}
		var err error
		switch {
		case !zero:
			_, err = dst.WriteAt(b[:n], at)
		case zeros != nil:
			err = zeros(dst, at, int64(n))
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// punch has the range read as zeros.
func punch(f *os.File, at, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.WriteAt(make([]byte, n), at)
	}
	return err
}

// eachData calls fn with what the file has, but for its holes.
func eachData(f *os.File, size int64, fn func(b []byte, at int64) error) error {
	buf := make([]byte, chunk)
	for at := int64(0); at < size; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) { // nothing but hole up to the end
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = data; at < min(hole, size); {
			b := buf[:min(chunk, min(hole, size)-at)]
			if _, err := f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if err := fn(b, at); err != nil {
				return err
			}
			at += int64(len(b))
		}
	}
	return nil
}

// keepsZeros reports that in the file system a page of zeros that was written is told from
// one that never was. Others may store both as holes.
func keepsZeros(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return true
	}
	return false
}

// copyState writes the device state in the VMM's folder to dst.
func copyState(dir *sys.Folder, uid int, dst io.Writer) error {
	f, err := dir.Open(stateFile, os.O_RDONLY, uid)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(dst, io.LimitReader(f, maxState+1))
	if err == nil && n > maxState {
		err = fmt.Errorf("the device state has more than %d bytes", maxState)
	}
	return err
}

// maxState bounds what a VMM may say that its devices are; they take tens of kilobytes.
const maxState = 64 << 20

// putState puts the device state of a snapshot where the VMM can read it. It is read once,
// so that a disk that can't give it is not taken for a state that is damaged.
func putState(s driver.Spec, snap driver.Snapshot, dir *sys.Folder) error {
	var b []byte
	err := sys.InParent(s.Dir, snap.State, func(d *sys.Folder, name string) (err error) {
		b, err = d.ReadFile(name, maxState)
		return err
	})
	if err != nil {
		return rundir.OpenError("device state", err)
	}
	f, err := dir.Create(stateFile)
	if err != nil {
		return mvm.Explain("give the VMM its device state", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, sys.Share(f, s.GID, false), f.Close()); err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "give the VMM its device state: %w", err)
	}
	return nil
}

// dirOf takes hold of the folder that the VMM works in.
func dirOf(s driver.Spec, fn func(*sys.Folder) error) error {
	return sys.InFolder(s.RunDir, func(d *sys.Folder) error { return d.InSub(dirName, fn) })
}
