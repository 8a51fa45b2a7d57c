package wait

import (
	"context"
	"sync"
)

// Turns bound how much is done at the same time, in all and for each owner. Who has as many as it
// may have takes no turn of others.
type Turns struct {
	all chan struct{}
	per int

	mu sync.Mutex
	by map[string]*ownerTurns
}

// ownerTurns are those of an owner that has some, or waits for one.
type ownerTurns struct {
	slots chan struct{}
	users int
}

// NewTurns makes turns, so many at a time in all, and for one owner.
func NewTurns(all, perOwner int) *Turns {
	return &Turns{all: make(chan struct{}, all), per: perOwner, by: map[string]*ownerTurns{}}
}

// Take waits for a turn of the owner. waiting, when not nil, is called where it must wait.
func (t *Turns) Take(ctx context.Context, owner string, waiting func()) (release func(), err error) {
	own := t.of(owner)
	leave := func() { t.leave(owner) }
	if err := turn(ctx, own.slots, waiting); err != nil {
		leave()
		return nil, err
	}
	if err := turn(ctx, t.all, waiting); err != nil {
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

func (t *Turns) of(owner string) *ownerTurns {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.by[owner]
	if own == nil {
		own = &ownerTurns{slots: make(chan struct{}, t.per)}
		t.by[owner] = own
	}
	own.users++
	return own
}

func (t *Turns) leave(owner string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.by[owner]
	if own.users--; own.users == 0 {
		delete(t.by, owner)
	}
}

func turn(ctx context.Context, slots chan struct{}, waiting func()) error {
	select {
	case slots <- struct{}{}:
		return nil
	default:
	}
	if waiting != nil {
		waiting()
	}
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
