package rundir

import (
	"errors"
	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

// TakeWhole makes the memory that a snapshot has as a whole the memory file.
func TakeWhole(s driver.Spec, snap driver.Snapshot) error {
	err := sys.InParent(s.Dir, snap.Whole(), func(from *sys.Folder, name string) error {
		if _, _, err := from.Size(name); err != nil {
			return err
		}
		return sys.InParent(s.Dir, s.Memory, func(to *sys.Folder, as string) error {
			return errors.Join(from.Rename(name, to, as), to.Sync(), from.Sync())
		})
	})
	if err = sys.IfThere(err); err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "take the snapshot's memory: %w", err)
	}
	return nil
}
