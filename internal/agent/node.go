package agent

import (
	"context"
	"errors"
	"os"
	"runtime"
	"runtime/metrics"

	"github.com/prometheus/procfs"

	"mvm"
	"mvm/internal/folders"
	"mvm/internal/ledger"
	"mvm/internal/network"
	"mvm/internal/snapshot"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// Stats implements api.Service.
func (a *Agent) Stats(ctx context.Context, addr mvm.Address) (mvm.InstanceStats, error) {
	i, err := a.Instance(ctx, addr)
	if err != nil {
		return mvm.InstanceStats{}, err
	}
	s := mvm.InstanceStats{ID: i.ID, State: i.State}
	s.ReadyBytes = a.ready.Bytes(i.ID)
	use := a.ingress.Use(i.ID)
	s.Connections, s.LastActive = use.Open, use.Last
	s.Idle = i.Idle
	s.Integrations = i.Integrations
	if i.State == mvm.StateRunning {
		if states, err := a.health.Integrations(ctx, i); err == nil {
			s.Integrations = states
		}
	}
	if s.DiskBytes, _, err = a.diskBytes(i.ID); err != nil {
		return s, err
	}
	if i.Snapshot != nil {
		if s.SleeperBytes, err = a.folders.Snapshots(i).Bytes(i.Snapshot.ID); err != nil {
			return s, err
		}
	}
	l := a.live.Of(i.ID)
	if l == nil {
		return s, nil
	}
	v, err := l.Driver().Stats(ctx)
	if err != nil {
		return s, mvm.Errorf(mvm.KindOf(err), "measure %s: %w", i.ID, err)
	}
	s.PID, s.CPU, s.RSSBytes, s.RxBytes, s.TxBytes = l.Driver().PID(), v.CPU, v.RSSBytes, v.RxBytes, v.TxBytes
	s.CPUThrottled, s.DiskWait = v.Throttled, v.DiskWait
	s.DroppedFrames = a.droppedFrames(ctx, i)
	return s, nil
}

// droppedFrames is 0 where the network doesn't count, as that of an older hostd.
func (a *Agent) droppedFrames(ctx context.Context, i mvm.Instance) uint64 {
	n, ok := a.opt.Network.(network.Counters)
	if !ok {
		return 0
	}
	d, err := n.Dropped(ctx, i.Tenant, i.ID)
	if err != nil {
		a.log.Debug("count dropped frames", "instance", i.ID, "error", err)
	}
	return d.Sent + d.Received
}

// nodeID is the host's name.
func (a *Agent) nodeID() (string, error) {
	if a.opt.NodeID != "" {
		return a.opt.NodeID, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "read host name: %w", err)
	}
	return host, nil
}

// NodeInfo implements api.Service.
func (a *Agent) NodeInfo(ctx context.Context) (mvm.NodeInfo, error) {
	host, err := a.nodeID()
	if err != nil {
		return mvm.NodeInfo{}, err
	}
	info, err := a.driverInfo(ctx)
	if err != nil {
		return mvm.NodeInfo{}, mvm.Errorf(mvm.KindOf(err), "probe driver: %w", err)
	}
	held, err := a.declare.Held()
	if err != nil {
		return mvm.NodeInfo{}, err
	}
	mem, _, err := memInfo()
	return mvm.NodeInfo{NodeID: host, Version: a.opt.Version, PID: os.Getpid(), Started: a.started, DataDir: a.opt.DataDir, APIAddress: a.opt.APIAddress,
		Driver: info.Name, VMM: info.Version, Accelerator: info.Accelerator, Why: info.Why, Missing: info.Missing,
		CPUs: runtime.NumCPU(), MemMiB: mem, Held: held}, err
}

// NodeStats implements api.Service.
func (a *Agent) NodeStats(ctx context.Context) (mvm.NodeStats, error) {
	s := mvm.NodeStats{Instances: map[mvm.State]int{}, Goroutines: runtime.NumGoroutine()}
	tenants, err := a.Tenants(ctx)
	if err != nil {
		return s, err
	}
	s.Tenants = len(tenants)
	instances, err := a.Instances(ctx, mvm.Address{})
	if err != nil {
		return s, err
	}
	for _, i := range instances {
		s.Instances[i.State]++
	}
	if _, s.FreeMemMiB, err = memInfo(); err != nil {
		return s, err
	}
	s.AgentHeap = liveHeap()
	s.Ready, s.ReadyBytes = a.ready.Held()
	s.OpenFiles, s.AgentRSS, err = ownUse()
	return s, err
}

// memInfo reads how much memory the host has, and how much of it is free, in MiB.
func memInfo() (total, available int, err error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, 0, mvm.Errorf(mvm.KindInternal, "read memory of host: %w", err)
	}
	m, err := fs.Meminfo()
	if err == nil && (m.MemTotalBytes == nil || m.MemAvailableBytes == nil) {
		err = errors.New("/proc/meminfo lacks MemTotal or MemAvailable")
	}
	if err != nil {
		return 0, 0, mvm.Errorf(mvm.KindInternal, "read memory of host: %w", err)
	}
	return int(*m.MemTotalBytes >> 20), int(*m.MemAvailableBytes >> 20), nil
}

// liveHeap is what the last garbage collection found in use.
func liveHeap() int64 {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return int64(live[0].Value.Uint64())
}

// ownUse is what this process has open, and its memory in bytes.
func ownUse() (files int, rss int64, err error) {
	self, err := procfs.Self()
	if err != nil {
		return 0, 0, mvm.Errorf(mvm.KindInternal, "look at this process: %w", err)
	}
	files, err = self.FileDescriptorsLen()
	st, serr := self.Stat()
	if err := errors.Join(err, serr); err != nil {
		return 0, 0, mvm.Errorf(mvm.KindInternal, "look at this process: %w", err)
	}
	return files, int64(st.ResidentMemory()), nil
}

// NodeDisk implements api.Service.
func (a *Agent) NodeDisk(context.Context) (mvm.NodeDisk, error) { return a.ledger.Disk() }

// NodeCheck implements api.Service.
func (a *Agent) NodeCheck(ctx context.Context, how mvm.NodeCheck, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	return a.ledger.Check(ctx, how, progress)
}

// kept is what the ledger asks of the agent.
type kept struct{ a *Agent }

var (
	_ ledger.Images    = kept{}
	_ ledger.Instances = kept{}
)

// Has implements ledger.Images.
func (k kept) Has(digest string) error {
	_, err := k.a.opt.Images.Get(digest)
	return err
}

// Verify implements ledger.Images.
func (k kept) Verify(ctx context.Context, digest string) error {
	img, err := k.a.opt.Images.Get(digest)
	if err != nil {
		return err
	}
	return img.Verify(ctx)
}

// Apart implements ledger.Instances.
func (k kept) Apart(ctx context.Context, id string, fn func(mvm.Instance)) error {
	return k.a.lifecycle.Apart(ctx, id, fn)
}

// diskBytes is what the instance's data disk, and snapshots that were set aside, take.
func (a *Agent) diskBytes(id string) (data, aside int64, err error) {
	err = a.folders.In(id, "measure data disk", func(d *sys.Folder) error {
		aside = snapshot.AsideBytes(d)
		data, err = folders.Allocated(d, folders.DataDisk)
		return err
	})
	return data, aside, sys.IfThere(err)
}

// NodeGC implements api.Service. What was set aside goes only when its time is over.
func (a *Agent) NodeGC(ctx context.Context) (int64, error) {
	used := map[string]bool{}
	var instances []mvm.Instance
	err := a.store.View(func(tx *store.Tx) error {
		pools, err := tx.Pools("")
		if err != nil {
			return err
		}
		for _, p := range pools {
			for _, b := range p.Builds {
				used[b.Digest] = true
			}
		}
		instances, err = tx.Instances("", "")
		for _, i := range instances {
			used[i.Image] = true
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	freed, err := a.opt.Images.GC(ctx, func(d string) bool { return used[d] })
	return freed + a.aside.Bound(), err
}
