// Package builds has the builds of a host as objects: each has an id, a state and a log, and
// goes on when the one who asked for it is gone. Several who want the same image of a tenant wait
// for one build. The last ones that ended are kept for each tenant, over restarts of the agent.
//
// What is on disk:
//
//	<dir>/<id>.json   the build: written when it begins and when it ends (disk.go)
//	<dir>/<id>.log    what it says, with a bound; see image.Log
//
// A build of which the agent was stopped, or died, is failed with that reason when it is opened again.
package builds

import (
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/build"
	"mvm/internal/image"
	"mvm/internal/wait"
)

// Images builds them. See image.Store.
type Images interface {
	Run(ctx context.Context, job image.Job) (image.Image, error)
}

// Pools get images.
type Pools interface {
	// Built makes the build's image that of the pool. The asker is in the context. KindNotFound:
	// the pool is gone.
	Built(ctx context.Context, at mvm.Address, r build.Run, digest string) (mvm.Build, error)
}

// Journal records events.
type Journal interface{ Record(mvm.Event) }

// Metrics counts builds.
type Metrics interface {
	// Builds is told how many wait and how many run.
	Builds(queued, running int)
	// BuildEnded is told of each that ended: done, failed or cancelled.
	BuildEnded(state string)
}

// Limits bound what builds take. Zero fields take the defaults.
type Limits struct {
	Kept      int           // that ended, of each tenant; 20
	KeptAll   int           // that ended, in all; 2000
	Pending   int           // that have not ended, of each tenant; 16
	AtWork    int           // that are looked up or built at the same time; 64
	PerTenant int           // of them of one tenant; 4
	LogBytes  int           // of one log; 256 KiB
	HeldFor   time.Duration // for which reconcile leaves alone what a person cancelled; 10 minutes
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		to *int
		n  int
	}{{&l.Kept, 20}, {&l.KeptAll, 2000}, {&l.Pending, 16}, {&l.AtWork, 64}, {&l.PerTenant, 4}, {&l.LogBytes, 256 << 10}} {
		if *f.to == 0 {
			*f.to = f.n
		}
	}
	if l.HeldFor == 0 {
		l.HeldFor = 10 * time.Minute
	}
	return l
}

// Options are what builds are made of. All but Limits are required.
type Options struct {
	Dir     string
	Images  Images
	Pools   Pools
	Journal Journal
	Metrics Metrics
	Log     *slog.Logger
	Rand    io.Reader
	Limits  Limits
}

// Builds are those of a host. All methods may be called concurrently.
type Builds struct {
	opt    Options
	life   context.Context // of what is built
	turns  *wait.Turns
	group  wait.Group
	limits Limits

	mu  sync.Mutex
	all map[string]*run
}

// run is a build with who waits for it. Builds.mu guards its fields.
type run struct {
	build.Run
	cancel context.CancelCauseFunc // ends it; nil for one of an earlier agent
	takers []taker                 // pools that want the image
	got    map[string]outcome      // by pool, who got it
	said   []mvm.Progress          // the last of what it said
	first  int                     // the number of said[0]
	err    error                   // why it failed
	news   chan struct{}           // closed and replaced when something changed
	done   chan struct{}           // closed at its end
}

// taker is a pool that wants a build's image, and who asked for it.
type taker struct {
	at      mvm.Address
	by      mvm.Asker
	request string
}

type outcome struct {
	build mvm.Build
	err   error
}

// New makes builds that end with life. Open reads what is kept.
func New(life context.Context, opt Options) *Builds {
	l := opt.Limits.withDefaults()
	return &Builds{opt: opt, life: life, limits: l, turns: wait.NewTurns(l.AtWork, l.PerTenant), all: map[string]*run{}}
}

// Close waits for the builds under way. Their life has to be over.
func (b *Builds) Close() { b.group.Close() }

// newID makes an id that no build has. b.mu is held.
func (b *Builds) newID() (string, error) {
	for {
		var r [4]byte
		if _, err := io.ReadFull(b.opt.Rand, r[:]); err != nil {
			return "", mvm.Errorf(mvm.KindInternal, "make an id: read random bytes: %w", err)
		}
		if id := "b-" + hex.EncodeToString(r[:]); b.all[id] == nil {
			return id, nil
		}
	}
}

// List returns the tenant's builds, or all, the newest first.
func (b *Builds) List(tenant string) []build.Run {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []build.Run{}
	for _, r := range b.all {
		if tenant == "" || r.Tenant == tenant {
			out = append(out, r.copy())
		}
	}
	slices.SortFunc(out, newestFirst)
	return out
}

// newestFirst orders builds: those that go on before those that ended.
func newestFirst(p, q build.Run) int {
	if p.State.Ended() != q.State.Ended() {
		if q.State.Ended() {
			return -1
		}
		return 1
	}
	if n := q.Created.Compare(p.Created); n != 0 {
		return n
	}
	if p.ID < q.ID {
		return -1
	}
	return 1
}

// copy is the build as others may have it. b.mu is held.
func (r *run) copy() build.Run {
	c := r.Run
	c.Pools = slices.Clone(c.Pools)
	return c
}

// Get returns a build, KindNotFound when it is not there.
func (b *Builds) Get(id string) (build.Run, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, err := b.find(id)
	if err != nil {
		return build.Run{}, err
	}
	return r.copy(), nil
}

// find returns a build. b.mu is held.
func (b *Builds) find(id string) (*run, error) {
	if err := mvm.ValidateBuildID(id); err != nil {
		return nil, err
	}
	if r := b.all[id]; r != nil {
		return r, nil
	}
	return nil, build.NotFound(id)
}

// Of returns the id of the build for which the pool waits; "": none.
func (b *Builds) Of(at mvm.Address) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found *run
	for _, r := range b.all {
		if r.Tenant == at.Tenant && !r.State.Ended() && slices.Contains(r.Pools, at.Pool) && (found == nil || newestFirst(r.Run, found.Run) < 0) {
			found = r
		}
	}
	if found == nil {
		return ""
	}
	return found.ID
}

// count tells how many builds wait and run. b.mu is held.
func (b *Builds) count() {
	queued, running := 0, 0
	for _, r := range b.all {
		switch {
		case r.State == build.Queued:
			queued++
		case !r.State.Ended():
			running++
		}
	}
	b.opt.Metrics.Builds(queued, running)
}

// tell wakes who follows the build. b.mu is held.
func (r *run) tell() {
	close(r.news)
	r.news = make(chan struct{})
}
