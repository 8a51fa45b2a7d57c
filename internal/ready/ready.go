// Package ready keeps the memory of instances that fell asleep a short while ago in the host's
// memory, decrypted, so that their next wake reads no segment. It is a cache of snapshots: losing
// an image costs time, and a wake in doubt reads the files.
//
// An image is made from the files of a snapshot once the instance's VMM is gone, by one goroutine
// and one processor. It is used once, or given back: after Keep, when another needs its place, or
// when the host's memory gets short.
package ready

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/policy"
	"mvm/internal/wait"
)

// maxImages bounds the open files that images take.
const maxImages = 256

// maxWaiting bounds the instances whose images wait to be made.
const maxWaiting = 256

// Options are what a keeper is made of. All of them are required.
type Options struct {
	Limits Limits
	// Files are where an instance's snapshot is.
	Files func(i mvm.Instance) (dir string, snap driver.Snapshot, err error)
	// Make makes the image of a snapshot; see atrest.MakeReady.
	Make func(ctx context.Context, dir string, snap driver.Snapshot, memMiB int, admit func(bytes int64) error) (*driver.Ready, error)
	// Memory measures the host's.
	Memory  func() (policy.Memory, error)
	Metrics Metrics
	Log     *slog.Logger
}

// Metrics is told of images.
type Metrics interface {
	// Ready is told how many bytes of memory all images take.
	Ready(bytes int64)
	// Restored is told of each restore of a snapshot that succeeded: "ready" or "segments".
	Restored(tier string)
}

// The tiers that a snapshot is restored from.
const (
	TierReady    = "ready"
	TierSegments = "segments"
)

// Keeper has the images of a host. All methods may be called concurrently.
type Keeper struct {
	opt   Options
	poked chan struct{}

	mu      sync.Mutex
	images  map[string]image // by instance
	waiting []mvm.Instance   // whose images are to be made, the one that fell asleep last at the end
	making  string           // the instance whose image is being made; "": none
	cancel  context.CancelFunc
	look    time.Time // when the host's memory is to be measured, unless another does so before
	closed  bool
}

// image is one that is kept.
type image struct {
	tenant string
	since  time.Time
	ready  *driver.Ready
}

// New makes a keeper that makes nothing before Run.
func New(opt Options) *Keeper {
	return &Keeper{opt: opt, poked: make(chan struct{}, 1), images: map[string]image{}}
}

// Run makes images and gives them back, until ctx ends. Then it has none.
func (k *Keeper) Run(ctx context.Context) {
	defer k.close()
	for ctx.Err() == nil {
		if i, mctx, ok := k.next(ctx); ok {
			k.make(mctx, i)
			continue
		}
		wait.For(ctx, k.poked, k.tidy())
	}
}

func (k *Keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed, k.waiting = true, nil
	for id := range k.images {
		k.drop(id)
	}
}

// Rests says that the instance's VMM is gone. If it sleeps, its image is made soon; what was kept
// of it before is given back.
func (k *Keeper) Rests(i mvm.Instance) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget(i.ID)
	if !sleeps(i) || k.opt.Limits.Percent == 0 || k.closed {
		return
	}
	if k.waiting = append(k.waiting, i); len(k.waiting) > maxWaiting {
		k.waiting = k.waiting[1:]
	}
	select {
	case k.poked <- struct{}{}:
	default:
	}
}

// sleeps reports that the next thing to happen to the instance may be a wake.
func sleeps(i mvm.Instance) bool {
	if i.State != mvm.StateSleeping || i.Snapshot == nil || !i.Snapshot.Sealed || i.Snapshot.Consumed {
		return false
	}
	return i.Op == nil || i.Op.Kind == mvm.OpSleep || i.Op.Kind == mvm.OpWake
}

// Take hands over what is ready of the instance, for a restore; nil where nothing is. The caller
// closes it.
func (k *Keeper) Take(id string) *driver.Ready {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.images[id].ready
	delete(k.images, id)
	k.forget(id)
	return r
}

// Forget gives back what is kept of the instance, and makes nothing of it ready.
func (k *Keeper) Forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget(id)
}

// Restored says that a snapshot was restored, with what was taken for it.
func (k *Keeper) Restored(r *driver.Ready) {
	tier := TierSegments
	if r != nil && r.Taken() {
		tier = TierReady
	}
	k.opt.Metrics.Restored(tier)
}

// forget is Forget. mu is held.
func (k *Keeper) forget(id string) {
	for n, w := range k.waiting {
		if w.ID == id {
			k.waiting = append(k.waiting[:n:n], k.waiting[n+1:]...)
			break
		}
	}
	if k.making == id {
		k.callOff()
	}
	k.drop(id)
}

// callOff ends the making of an image, if one is made. mu is held.
func (k *Keeper) callOff() {
	if k.making != "" {
		k.cancel()
		k.making = ""
	}
}

// drop gives an image back. mu is held.
func (k *Keeper) drop(id string) {
	if i, ok := k.images[id]; ok {
		delete(k.images, id)
		if err := i.ready.Close(); err != nil {
			k.opt.Log.Warn("give memory back", "instance", id, "error", err)
		}
	}
	k.opt.Metrics.Ready(k.total(""))
}

// total is what the tenant's images take; "": all. mu is held.
func (k *Keeper) total(tenant string) (sum int64) {
	for _, i := range k.images {
		if tenant == "" || i.tenant == tenant {
			sum += i.ready.Bytes
		}
	}
	return sum
}

// Bytes is what is kept of an instance; 0: nothing.
func (k *Keeper) Bytes(id string) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i, ok := k.images[id]; ok {
		return i.ready.Bytes
	}
	return 0
}

// Held is how many images there are, and what they take.
func (k *Keeper) Held() (images int, bytes int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.images), k.total("")
}

// next is the instance whose image is to be made: who fell asleep last is the likeliest to wake
// next.
func (k *Keeper) next(ctx context.Context) (i mvm.Instance, mctx context.Context, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.waiting) - 1
	if n < 0 {
		return i, nil, false
	}
	i, k.waiting = k.waiting[n], k.waiting[:n:n]
	mctx, k.cancel = context.WithCancel(ctx)
	k.making = i.ID
	return i, mctx, true
}

// make makes the image of an instance, and keeps it unless it is not wanted any more.
func (k *Keeper) make(ctx context.Context, i mvm.Instance) {
	dir, snap, err := k.opt.Files(i)
	var r *driver.Ready
	if err == nil {
		r, err = k.opt.Make(ctx, dir, snap, i.Res.MemMiB, func(bytes int64) error { return k.admit(i, bytes) })
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, errNoRoom) {
		k.opt.Log.Warn("keep a sleeper's memory ready", "instance", i.ID, "error", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cancel()
	if k.making != i.ID { // it is not wanted any more
		if r != nil {
			_ = r.Close()
		}
		return
	}
	k.making = ""
	if err == nil {
		k.images[i.ID] = image{i.Tenant, time.Now(), r}
		k.look = time.Now() // it has taken some
		k.opt.Metrics.Ready(k.total(""))
	}
}
