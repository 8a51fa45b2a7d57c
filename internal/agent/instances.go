package agent

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/lifecycle"
)

// CreateInstance implements api.Service.
func (a *Agent) CreateInstance(ctx context.Context, tenant, pool, key string) (mvm.Instance, error) {
	by := mvm.AskerFrom(ctx)
	i, err := a.fleet.CreateInstance(tenant, pool, key, mvm.Op{Kind: mvm.OpCreate, By: by, Started: time.Now(), Request: mvm.RequestFrom(ctx)})
	if err != nil {
		return i, err
	}
	return a.lifecycle.Submit(ctx, i.ID, lifecycle.Request{Op: mvm.OpCreate, By: by}, nil)
}

// Instances implements api.Service.
func (a *Agent) Instances(ctx context.Context, at mvm.Address) ([]mvm.Instance, error) {
	return a.fleet.Instances(ctx, at)
}

// Instance implements api.Service.
func (a *Agent) Instance(ctx context.Context, at mvm.Address) (mvm.Instance, error) {
	return a.fleet.Instance(ctx, at)
}

// Operate implements api.Service.
func (a *Agent) Operate(ctx context.Context, addr mvm.Address, req mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error) {
	i, err := a.Instance(ctx, addr)
	if err != nil {
		return i, err
	}
	if req.Op == mvm.OpRestore {
		return i, mvm.Errorf(mvm.KindInvalid, "restore %s: no snapshot id was given", i.Address()).WithFix("see `mvm instance snapshots restore --help`")
	}
	if req.Awake && !i.State.HoldsMemory() && i.Op == nil {
		return i, nil
	}
	by := mvm.AskerFrom(ctx)
	if by.Kind.Person() && req.Op != mvm.OpDestroy {
		if err := a.fleet.Override(i.ID); err != nil {
			return i, err
		}
		a.reconciler.Operated(i.Tenant) // who waits for the pool is told now, not at the next pass
	}
	return a.lifecycle.Submit(ctx, i.ID, lifecycle.Request{Op: req.Op, By: by, Why: req.Why, Force: req.Force, Awake: req.Awake}, progress)
}

// makeExt4 makes an empty ext4 file system in a sparse file with mkfs.ext4, which gets
// the file open.
func makeExt4(ctx context.Context, f *os.File, mib int) error {
	if err := f.Truncate(int64(mib) << 20); err != nil {
		return mvm.Errorf(mvm.KindInternal, "size data disk: %w", err)
	}
	cmd := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-L", "mvm-data",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "/proc/self/fd/3", strconv.Itoa(mib)+"M")
	cmd.ExtraFiles = []*os.File{f} // number 3
	if out, err := cmd.CombinedOutput(); err != nil {
		return mvm.Errorf(mvm.KindInternal, "mkfs.ext4 on data disk: %w: %s", err, display.Clip(string(out))).
			WithFix("install e2fsprogs; check the space left with `mvm node disk`")
	}
	return nil
}

// Queued counts the operations of an instance that wait or are under way, and says which is
// under way.
func (a *Agent) Queued(id string) (int, mvm.OpKind) { return a.lifecycle.Queued(id) }
