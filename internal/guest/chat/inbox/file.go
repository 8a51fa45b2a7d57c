package inbox

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"mvm"
)

// The buckets; see the package's comment.
const (
	heads  = "heads"
	bodies = "bodies"
	ids    = "ids"
	gone   = "gone"
	newest = "last" // made when it is needed, as is
	owed   = "owed"
)

func bucket(tx *bbolt.Tx, name string) *bbolt.Bucket { return tx.Bucket([]byte(name)) }

// lockTimeout bounds the wait for another process that has the file.
const lockTimeout = 2 * time.Second

// errDamaged says that the file has what nobody wrote.
var errDamaged = errors.New("the inbox is damaged")

// guarded runs fn, which reads the file, and returns an error where the library panics on
// what it finds there: the file is mapped into memory. b.mu is held.
func (b *Inbox) guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			b.stuck = true
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	return fn()
}

// open opens the file. A damaged one is set aside, and an empty one made. b.mu is held.
func (b *Inbox) open() error {
	err := b.attempt()
	if err == nil {
		err = b.load()
	}
	if errors.Is(err, errDamaged) {
		err = errors.Join(b.close(), b.moveAway(err))
		if err == nil {
			err = b.load()
		}
	}
	_ = os.Remove(b.path + opening) // it came to an end; one that stays counts against the next
	if err == nil {
		return nil
	}
	err = errors.Join(err, b.close())
	if full(err) {
		return diskFull(b.path, err)
	}
	return mvm.Errorf(mvm.KindInternal, "open inbox %s: %w", b.path, err)
}

// close closes the file, where it is open. b.mu is held.
//
// After a panic the library's locks may be held for good, and its Close would wait for them:
// then the file is closed under it, so that it can be opened again, and its mapping stays.
func (b *Inbox) close() error {
	db, f, stuck := b.db, b.file, b.stuck
	b.db, b.file, b.stuck, b.reserved = nil, nil, false, 0
	var err error
	if db != nil && !stuck {
		err = b.guarded(db.Close)
		stuck, b.stuck = b.stuck, false
	}
	if stuck && f != nil {
		err = errors.Join(err, unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
	}
	return err
}

// The file beside the inbox that counts attempts to open it, and how many of them may end
// in a crash. So a file on which the process dies is set aside in the end as well.
const (
	opening     = ".opening"
	maxAttempts = 5
)

// attempt counts an attempt to open the file. It fails where too many came to no end.
func (b *Inbox) attempt() error {
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(b.path+opening, os.O_CREATE|os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if full(err) {
		return nil // messages can be delivered all the same
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() >= maxAttempts {
		return fmt.Errorf("%w: %d attempts to open it ended in a crash", errDamaged, st.Size())
	}
	if _, err = f.Write([]byte(".")); err == nil {
		err = f.Sync()
	}
	if full(err) {
		return nil
	}
	return err
}

// load opens the file and reads all of it. b.mu is held.
func (b *Inbox) load() error {
	b.entries, b.chats = map[int64]*Entry{}, map[chatKey]tally{}
	b.waiting, b.aside, b.known = tally{}, tally{}, 0
	err := b.guarded(func() error {
		open := func(path string, flag int, mode os.FileMode) (f *os.File, err error) {
			f, err = openRegular(path, flag, mode)
			b.file = f
			return f, err
		}
		db, err := bbolt.Open(b.path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, OpenFile: open})
		if err != nil {
			return damagedBy(err)
		}
		b.db = db
		return errors.Join(b.initialise(), db.View(b.read))
	})
	if err != nil {
		return err
	}
	dir := filepath.Dir(b.path)
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

func openRegular(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, mode)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%w: %s is no regular file", errDamaged, path), f.Close())
	}
	return f, nil
}

// damagedBy says that the library's error is of a damaged file, unless it is the operating
// system's or another process has the file.
func damagedBy(err error) error {
	var os syscall.Errno
	if errors.Is(err, berrors.ErrTimeout) || errors.As(err, &os) || errors.Is(err, errDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

// initialise makes the buckets of a new file.
func (b *Inbox) initialise() error {
	missing := false
	err := b.db.View(func(tx *bbolt.Tx) error {
		missing = bucket(tx, gone) == nil
		return nil
	})
	if err != nil || !missing {
		return err
	}
	return b.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{heads, bodies, ids, gone} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		if b.damage == "" {
			return nil
		}
		return bucket(tx, heads).SetSequence(uint64(b.now().UnixMilli())) // no number of the damaged file
	})
}

// read reads the whole file, and takes up what it keeps.
func (b *Inbox) read(tx *bbolt.Tx) error {
	for _, name := range []string{heads, bodies, ids, gone} {
		if bucket(tx, name) == nil {
			return fmt.Errorf("%w: it has no %s", errDamaged, name)
		}
	}
	last := bucket(tx, heads).Sequence()
	err := bucket(tx, heads).ForEach(func(k, v []byte) error {
		e, err := decode(v)
		if err != nil || !bytes.Equal(k, number(e.Number)) || uint64(e.Number) > last || bucket(tx, bodies).Get(k) == nil {
			return fmt.Errorf("%w: head %x", errDamaged, k)
		}
		b.count(&e, 1)
		b.entries[e.Number] = &e
		return nil
	})
	if err != nil {
		return err
	}
	return bucket(tx, gone).ForEach(func(k, v []byte) error {
		if len(k) != 16 || bucket(tx, ids).Get(v) == nil {
			return fmt.Errorf("%w: id %x", errDamaged, k)
		}
		b.known++
		return nil
	})
}

// maxDamaged is how many damaged files are kept.
const maxDamaged = 2

// moveAway renames a damaged file. b.mu is held.
func (b *Inbox) moveAway(why error) error {
	to := b.path + ".damaged-" + b.now().UTC().Format("20060102T150405.000")
	if err := os.Rename(b.path, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b.damage = fmt.Sprintf("the inbox was damaged and is kept as %s: %v", to, why)
	b.log.Error("inbox damaged; a new one takes its place", "kept", to, "error", why)
	old, err := filepath.Glob(b.path + ".damaged-*")
	if err != nil {
		return err
	}
	slices.Sort(old)
	for _, path := range old[:max(0, len(old)-maxDamaged)] {
		err = errors.Join(err, os.Remove(path))
	}
	if rmErr := os.Remove(b.path + opening); !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return errors.Join(err, syncDir(filepath.Dir(b.path)))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// spare is how much of the file beyond what is used has blocks on the disk, so that
// messages can be delivered and dropped on a full one.
const spare = 1 << 20

// reserve gives blocks to the part of the file that this change and the next removals will
// use. Only a change that adds something fails for want of them. b.mu is held.
func (b *Inbox) reserve(tx *bbolt.Tx, room int) error {
	need := tx.Size() + int64(room) + spare
	if need <= b.reserved {
		return nil
	}
	f, err := os.OpenFile(b.path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, need)
	switch {
	case err == nil:
		b.reserved = need
	case full(err) && room > 0 && int64(room)+spare > b.free():
		return diskFull(b.path, err)
	}
	return nil
}

// free is how much of the file's size is used by nothing.
func (b *Inbox) free() int64 {
	return int64(b.db.Stats().FreePageN) * int64(b.db.Info().PageSize)
}

// A head is stored as its own checksum, that of the body, and JSON.
const headSums = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns the stored form of a head.
func encode(e Entry, bodySum uint32) ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode message %d: %w", e.Number, err)
	}
	rest := append(binary.BigEndian.AppendUint32(nil, bodySum), text...)
	return append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(rest, castagnoli)), rest...), nil
}

func decode(v []byte) (e Entry, err error) {
	if len(v) < headSums || crc32.Checksum(v[4:], castagnoli) != binary.BigEndian.Uint32(v) {
		return Entry{}, errDamaged
	}
	err = json.Unmarshal(v[headSums:], &e)
	return e, err
}

func bodySum(head []byte) uint32 { return binary.BigEndian.Uint32(head[4:]) }
