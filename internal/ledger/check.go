package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/folders"
	"mvm/internal/snapshot"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// Severities of findings.
const (
	fixed   = "ok" // it was wrong, and is repaired
	warning = "warning"
	wrong   = "error"
)

// check is one run of Check.
type check struct {
	*Ledger
	how      mvm.NodeCheck
	progress func(mvm.Progress)
	found    []mvm.Finding
}

// Check compares the files of the host with its records. It may run beside all else: an instance
// that an operation works on is not checked, and the finding says so. With Repair it removes files
// that no record names; it never changes a record, nor a file that one names. What is damaged and
// can't be repaired comes with what to do. progress may be nil.
func (l *Ledger) Check(ctx context.Context, how mvm.NodeCheck, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	if progress == nil {
		progress = func(mvm.Progress) {}
	}
	c := &check{Ledger: l, how: how, progress: progress}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"folders of instances", c.folders},
		{"files of instances", c.files},
		{"snapshots", c.snapshots},
		{"images", c.images},
	} {
		c.progress(mvm.Progress{Text: "checking " + step.name})
		if err := step.run(ctx); err != nil {
			return c.found, mvm.Errorf(mvm.KindOf(err), "check %s: %w", step.name, err)
		}
	}
	return c.found, nil
}

func (c *check) add(severity, what, where, fix string) {
	c.found = append(c.found, mvm.Finding{Severity: severity, What: what, Where: where, Fix: fix})
}

// extra reports a file that no record names, and with Repair removes it.
func (c *check) extra(what, where string, remove func() error) {
	if !c.how.Repair {
		c.add(wrong, what, where, "remove it with `mvm node fsck --repair`")
		return
	}
	if err := remove(); err != nil {
		c.add(wrong, fmt.Sprintf("%s, and it can't be removed: %v", what, err), where, "remove it by hand")
		return
	}
	c.opt.Log.Info("removed what no record names", "path", where, "why", what)
	c.add(fixed, "removed: "+what, where, "")
}

// folders finds folders of instances without a record. Names are read before the records, which
// are made before folders are, and go after them.
func (c *check) folders(context.Context) error {
	for _, root := range []string{c.opt.Folders.Root(), c.opt.Folders.RunRoot()} {
		names, err := namesIn(root)
		if err != nil {
			return err
		}
		all, err := c.instances()
		if err != nil {
			return err
		}
		for _, name := range names {
			if slices.ContainsFunc(all, func(i mvm.Instance) bool { return i.ID == name }) {
				continue
			}
			where := filepath.Join(root, name)
			if !strings.HasPrefix(name, "i-") && !strings.HasPrefix(name, sys.TrashPrefix) {
				c.add(warning, "mvm did not make this", where, "move it somewhere else")
				continue
			}
			if now, err := namesIn(root); err != nil || !slices.Contains(now, name) {
				continue // it was being removed
			}
			c.extra("no record names this instance", where, func() error {
				return sys.InFolder(root, func(d *sys.Folder) error { return d.RemoveAll(name) })
			})
		}
	}
	return nil
}

func namesIn(path string) (names []string, err error) {
	err = sys.IfThere(sys.InFolder(path, func(d *sys.Folder) error {
		names, err = d.Names()
		return err
	}))
	slices.Sort(names)
	return names, err
}

// files checks the folder of each instance.
func (c *check) files(ctx context.Context) error {
	all, err := c.instances()
	for _, i := range all {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		sub := &check{Ledger: c.Ledger, how: c.how}
		ran := false
		if err := c.opt.Instances.Apart(ctx, i.ID, func(now mvm.Instance) {
			ran = true
			sub.instance(now)
		}); err != nil {
			return err
		}
		if !ran {
			c.notChecked(i)
			continue
		}
		c.found = append(c.found, sub.found...)
	}
	return err
}

// notChecked tells of an instance that could not be checked, if it is there yet.
func (c *check) notChecked(i mvm.Instance) {
	err := c.opt.Store.View(func(tx *store.Tx) error {
		_, err := tx.Instance(i.ID)
		return err
	})
	if err == nil {
		c.add(warning, "not checked: an operation works on it", i.Address().String(), "run the command again")
	}
}

// instance checks one while no operation works on it.
func (c *check) instance(i mvm.Instance) {
	dir := c.opt.Folders.Dir(i.ID)
	names, err := namesIn(dir)
	if err != nil {
		c.add(wrong, err.Error(), dir, "")
		return
	}
	made := i.State != mvm.StateCreated
	if made && len(names) == 0 {
		c.add(wrong, i.Address().String()+" has no files", dir, fmt.Sprintf("bring the folder back from a backup, or destroy the instance with `mvm instance destroy %s`", i.ID))
		return
	}
	if made && i.Res.DataDiskMiB > 0 {
		c.dataDisk(i, dir)
	}
	for _, name := range names {
		c.name(i, dir, name)
	}
	faults, err := c.opt.Folders.Snapshots(i).Check(i)
	if err != nil {
		c.add(wrong, err.Error(), dir, "")
	}
	c.faults(i, dir, faults)
}

func (c *check) dataDisk(i mvm.Instance, dir string) {
	where := filepath.Join(dir, folders.DataDisk)
	err := sys.InFolder(dir, func(d *sys.Folder) error {
		_, _, err := d.Size(folders.DataDisk, i.UID)
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist) && !i.DiskMade && !i.State.HoldsMemory() && i.State != mvm.StateSleeping:
		// Its pool had none when it ran last; or an older version did not record that it was made.
		c.add(warning, "there is no data disk of "+i.Address().String()+"; the next start makes an empty one", where, "if it had one, bring it back from a backup first")
	case errors.Is(err, fs.ErrNotExist):
		c.add(wrong, "the data disk of "+i.Address().String()+" is not there", where,
			fmt.Sprintf("bring it back from a backup, or destroy the instance with `mvm instance destroy %s`", i.ID))
	case err != nil:
		c.add(wrong, err.Error(), where, "")
	}
}

// name checks one name in an instance's folder.
func (c *check) name(i mvm.Instance, dir, name string) {
	where := filepath.Join(dir, name)
	switch {
	case name == folders.NewDisk, strings.HasPrefix(name, sys.TrashPrefix):
		c.extra("left by an operation that was cut off", where, func() error {
			return sys.InFolder(dir, func(d *sys.Folder) error { return d.RemoveAll(name) })
		})
	case name == folders.DataDisk, name == snapshot.MemoryFile, snapshot.IsFolder(name), isLog(name), strings.HasPrefix(name, "fake-"):
	default:
		c.add(warning, "mvm did not make this in the folder of "+i.Address().String(), where, "move it somewhere else")
	}
}

// faults reports what is wrong with the snapshots of an instance. With Repair it removes what
// nothing needs.
func (c *check) faults(i mvm.Instance, dir string, faults []snapshot.Fault) {
	tidied := false
	for _, f := range faults {
		where := filepath.Join(dir, f.Where)
		if f.Extra {
			c.extra(f.What, where, func() error {
				if tidied {
					return nil
				}
				tidied = true
				return c.opt.Folders.Snapshots(i).Tidy(i)
			})
			continue
		}
		fix := fmt.Sprintf("the next wake boots %s from its disks; what was in its memory is lost", i.ID)
		if strings.HasPrefix(f.Where, snapshot.AsideFolder) {
			fix = fmt.Sprintf("it can't be brought back; remove it with `mvm instance snapshots rm %s %s`", i.ID, filepath.Base(f.Where))
		}
		c.add(wrong, "a snapshot of "+i.Address().String()+" can't be restored: "+f.What, where, fix)
	}
}

// snapshots reads what sleeps. Wakes don't wait for it: what is wrong counts only if the
// instance has slept all the time.
func (c *check) snapshots(ctx context.Context) error {
	if !c.how.ReadData {
		return nil
	}
	all, err := c.instances()
	for _, i := range all {
		if i.Snapshot == nil && len(i.SetAside) == 0 {
			continue
		}
		c.progress(mvm.Progress{Text: "reading the snapshots of " + i.Address().String()})
		faults, err := c.opt.Folders.Snapshots(i).ReadAll(ctx, i)
		if err != nil {
			return err
		}
		if len(faults) > 0 && c.asBefore(i) {
			c.faults(i, c.opt.Folders.Dir(i.ID), c.unsaid(i, faults))
		}
	}
	return err
}

// unsaid are those of the faults that the look at the files has not found already.
func (c *check) unsaid(i mvm.Instance, faults []snapshot.Fault) []snapshot.Fault {
	return slices.DeleteFunc(faults, func(f snapshot.Fault) bool {
		where := filepath.Join(c.opt.Folders.Dir(i.ID), f.Where)
		return slices.ContainsFunc(c.found, func(o mvm.Finding) bool { return o.Where == where && o.Severity == wrong })
	})
}

func (c *check) asBefore(i mvm.Instance) bool {
	now := i
	err := c.opt.Store.View(func(tx *store.Tx) (err error) {
		now, err = tx.Instance(i.ID)
		return err
	})
	return err == nil && now.Op == nil && now.State == i.State && now.Changed.Equal(i.Changed)
}

// images checks those that records name.
func (c *check) images(ctx context.Context) error {
	users, err := c.imageUsers()
	if err != nil {
		return err
	}
	for _, digest := range slices.Sorted(maps.Keys(users)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := c.opt.Images.Has(digest)
		if err == nil && c.how.ReadData {
			c.progress(mvm.Progress{Text: "reading image " + digest})
			err = c.opt.Images.Verify(ctx, digest)
		}
		if err != nil && ctx.Err() == nil {
			c.add(wrong, fmt.Sprintf("an image of %s: %v", users[digest], err), digest, fmt.Sprintf("build it again with `mvm pool build %s`", users[digest]))
		}
	}
	return nil
}

// imageUsers are the images that pools and instances have, each with a pool.
func (c *check) imageUsers() (map[string]string, error) {
	users := map[string]string{}
	err := c.opt.Store.View(func(tx *store.Tx) error {
		pools, err := tx.Pools("")
		if err != nil {
			return err
		}
		for _, p := range pools {
			for _, b := range p.Builds {
				users[b.Digest] = p.Address().String()
			}
		}
		all, err := tx.Instances("", "")
		for _, i := range all {
			if i.Image != "" {
				users[i.Image] = mvm.Address{Tenant: i.Tenant, Pool: i.Pool}.String()
			}
		}
		return err
	})
	return users, err
}
