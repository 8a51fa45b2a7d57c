package folders

import (
	"context"
	"errors"
	"os"

	"mvm/internal/sys"
)

// MakeDataDisk makes the data disk of mib MiB in an instance's folder, whole or not at all;
// one that is there stays. format makes the empty file a disk. The folder is the caller's to
// sync.
func MakeDataDisk(ctx context.Context, d *sys.Folder, mib int, format func(context.Context, *os.File, int) error) error {
	if _, _, err := d.Size(DataDisk); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := d.Create(NewDisk)
	if err != nil {
		return err
	}
	err = format(ctx, f, mib)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, d.Remove(NewDisk))
	}
	return d.Rename(NewDisk, d, DataDisk)
}

// GrowDataDisk makes the data disk of the instance mib MiB long, durably. What is on it stays,
// and so does one that is longer; its file system grows in the guest, when it is mounted. Where
// there is none the error is an os.ErrNotExist.
func (f Folders) GrowDataDisk(id string, mib int) error {
	return f.In(id, "grow data disk", func(d *sys.Folder) error {
		disk, err := d.Open(DataDisk, os.O_RDWR)
		if err != nil {
			return err
		}
		return errors.Join(growFile(disk, int64(mib)<<20), disk.Close())
	})
}

func growFile(f *os.File, size int64) error {
	st, err := f.Stat()
	if err != nil || st.Size() >= size {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync())
}
