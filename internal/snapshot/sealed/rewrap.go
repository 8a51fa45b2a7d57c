package sealed

import (
	"errors"
	"io/fs"
	"os"

	"mvm/internal/sys"
	"mvm/internal/tenantkey"
)

// Rewrap has a file's key wrapped by another key of the tenant. The content stays as it is.
// It can run again after it was cut off: until it is through, one of the two keys opens the
// file, and afterwards only to. Nobody else may write to the file meanwhile; readers may read.
func Rewrap(d *sys.Folder, name string, from, to *tenantkey.Key, meta Meta) error {
	f, err := d.Open(name, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return Bad(Missing, d.Path()+"/"+name, "%w", fs.ErrNotExist)
	}
	if err != nil {
		return Failed("open", d.Path()+"/"+name, err)
	}
	return errors.Join(rewrap(f, from, to, meta), f.Close())
}

func rewrap(f *os.File, from, to *tenantkey.Key, meta Meta) error {
	heads, ok, err := slots(f)
	if err != nil {
		return Failed("read", f.Name(), err)
	}
	if ok[0] && ok[1] && heads[0] == heads[1] && heads[0].keyID == to.ID() {
		if _, _, err := unlock(f, to, meta); err == nil {
			return nil
		}
	}
	h, key, err := unlock(f, to, meta)
	if err != nil {
		if h, key, err = unlock(f, from, meta); err != nil {
			return err
		}
	}
	defer clear(key)
	// The head that opens is overwritten last, after the other one is durable.
	first := 1
	if ok[1] && heads[1] == h && !(ok[0] && heads[0] == h) {
		first = 0
	}
	if h.keyID != to.ID() {
		if h, err = h.wrap(key, to, meta.Bound); err != nil {
			return err
		}
	}
	for _, slot := range []int{first, 1 - first} {
		if _, err := f.WriteAt(h.bytes(), int64(slot)*slotSize); err != nil {
			return Failed("wrap the key of", f.Name(), err)
		}
		if err := f.Sync(); err != nil {
			return Failed("wrap the key of", f.Name(), err)
		}
	}
	return nil
}
