package image

import (
	"context"
	"fmt"
	"sync"
	"time"

	"mvm"
)

// Limits bound what builds take of a host, whoever asks for them.
type Limits struct {
	Resolve   time.Duration // for looking up what a request names
	Build     time.Duration // for one build, without the time in which it waits for its turn
	Parallel  int           // builds at the same time
	PerTenant int           // of them for one tenant
	Logs      int           // of builds, that are kept
	LogBytes  int           // of one log
}

// DefaultLimits are those of Open.
func DefaultLimits() Limits {
	return Limits{Resolve: 10 * time.Minute, Build: time.Hour, Parallel: 4, PerTenant: 2, Logs: 200, LogBytes: 256 << 10}
}

// turns gives builds their turns.
type turns struct {
	limits Limits
	all    chan struct{}

	mu  sync.Mutex
	per map[string]*tenantTurns
}

// tenantTurns are those of a tenant that has builds.
type tenantTurns struct {
	slots chan struct{}
	users int
}

func newTurns(l Limits) *turns {
	return &turns{limits: l, all: make(chan struct{}, l.Parallel), per: map[string]*tenantTurns{}}
}

// take waits for the turn of a build for the tenant. Builds of one that has as many as it may
// take no turn of others.
func (t *turns) take(ctx context.Context, tenant string, waiting func()) (release func(), err error) {
	own := t.of(tenant)
	leave := func() { t.leave(tenant) }
	if err := slot(ctx, own.slots, waiting); err != nil {
		leave()
		return nil, err
	}
	if err := slot(ctx, t.all, waiting); err != nil {
		<-own.slots
		leave()
		return nil, err
	}
	return func() {
		<-t.all
		<-own.slots
		leave()
	}, nil
}

func (t *turns) of(tenant string) *tenantTurns {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.per[tenant]
	if own == nil {
		own = &tenantTurns{slots: make(chan struct{}, t.limits.PerTenant)}
		t.per[tenant] = own
	}
	own.users++
	return own
}

func (t *turns) leave(tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.per[tenant]
	if own.users--; own.users == 0 {
		delete(t.per, tenant)
	}
}

func slot(ctx context.Context, slots chan struct{}, waiting func()) error {
	select {
	case slots <- struct{}{}:
		return nil
	default:
	}
	waiting()
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for other builds: %w", context.Cause(ctx))
	}
}

// within bounds what is done to a reference.
func within(ctx context.Context, d time.Duration, what, ref string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, mvm.Errorf(mvm.KindUnavailable, "%s image %s: it was stopped after %s", what, ref, d).
		WithFix("see why it takes so long in its log, and build again"))
}

// ended is the error of what a context bounded: the bound, where that is the reason.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		return context.Cause(ctx)
	}
	return err
}
