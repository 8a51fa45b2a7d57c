package host

import (
	"errors"
	"log/slog"
	"os"

	"mvm"
	"mvm/internal/network/linuxnet"
	"mvm/internal/owner"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// folders are an agent's own: no other works in them while it holds them, and its run
// dir is its data dir's.
type folders struct {
	owner.Owner
	data, run *owner.Hold
}

// takeFolders makes the agent's folders and holds them. When they are another's it
// changes nothing.
func takeFolders(o Options) (f *folders, err error) {
	if err := makeFolder(o.DataDir); err != nil {
		return nil, err
	}
	f = &folders{}
	if f.Owner, err = owner.Of(o.DataDir, o.Socket); err != nil {
		return nil, err
	}
	if f.data, err = owner.TakeDataDir(f.Owner); err != nil {
		return nil, err
	}
	if err = makeFolder(o.RunDir); err == nil {
		f.run, err = owner.TakeRunDir(o.RunDir, f.Owner)
	}
	if err != nil {
		return nil, errors.Join(err, f.data.Close())
	}
	for _, dir := range []string{o.DataDir, o.RunDir} {
		if err := os.Chmod(dir, 0o711); err != nil { // VMMs, which have users of their own, pass through
			return nil, errors.Join(mvm.Errorf(mvm.KindInternal, "make folder: %w", err), f.Close())
		}
	}
	return f, nil
}

// Close lets go of the folders.
func (f *folders) Close() error { return errors.Join(f.run.Close(), f.data.Close()) }

func makeFolder(dir string) error {
	if err := sys.MkdirAll(dir, 0o711); err != nil {
		return mvm.Errorf(mvm.KindInternal, "make folder: %w", err)
	}
	return checkOwner(dir)
}

// takeNetworks holds the tenant networks of this network namespace.
func takeNetworks(o owner.Owner) (*owner.Hold, error) {
	return owner.TakeNetworks(o, func() (owner.Networks, error) {
		bridges, taps, err := linuxnet.Interfaces()
		return owner.Networks{Bridges: bridges, TAPs: taps}, err
	})
}

// takeUsers holds a range of users for the VMMs of an agent with root's rights, and has
// the store give of it. It is the one that the store has had, or that the config says; a
// new data dir gets one by chance, the default one the first.
func takeUsers(o Options, own owner.Owner, st *store.Store, log *slog.Logger) (*owner.Hold, error) {
	first, used, err := st.UIDBase()
	if err != nil {
		return nil, err
	}
	switch {
	case o.UIDBase != 0:
		first = o.UIDBase
	case !used && o.DataDir != defaultDataDir:
		first = owner.AnyUsers()
	}
	for range 20 {
		hold, err := owner.TakeUsers(own, first)
		if err == nil {
			if err = st.SetUIDBase(first); err != nil {
				return nil, errors.Join(err, hold.Close())
			}
			return hold, nil
		}
		if o.UIDBase != 0 || !mvm.IsKind(err, mvm.KindState) {
			return nil, err
		}
		if used {
			log.Warn("another agent's VMMs may run as users of this one's older instances; its new ones get others", "error", err,
				"fix", "recreate those instances when the other agent is to stay")
		}
		first, used = owner.AnyUsers(), false
	}
	return nil, mvm.Errorf(mvm.KindState, "find users for VMMs: other agents use all that were tried").WithFix("remove %s/users-* if no other agent has VMMs", owner.LockDir)
}

// defaultDataDir is that of an agent whose config says nothing else.
const defaultDataDir = "/var/lib/mvm"
