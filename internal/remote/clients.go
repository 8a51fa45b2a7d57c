package remote

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"mvm/internal/api"
)

// Bounds of the table of clients, and of one client's requests at once.
const (
	maxClients     = 4096
	maxOfOneClient = 32
)

// clients bound what each client asks, by its identity: several certificates of one
// client are one.
type clients struct {
	limit rate.Limit
	burst int

	mu sync.Mutex
	by map[string]*client
}

type client struct {
	limiter *rate.Limiter
	busy    int
}

func newClients(perSecond, burst int) *clients {
	return &clients{limit: rate.Limit(perSecond), burst: burst, by: map[string]*client{}}
}

// enter counts a request in, or says when to try again. release counts it out.
func (c *clients) enter(id string, now time.Time) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.by[id]
	if one == nil {
		if len(c.by) >= maxClients && !c.sweep(now) {
			return nil, api.TooMany(time.Second, "agent has requests of %d clients", maxClients)
		}
		one = &client{limiter: rate.NewLimiter(c.limit, c.burst)}
		c.by[id] = one
	}
	if one.busy >= maxOfOneClient {
		return nil, api.TooMany(time.Second, "client has %d requests under way", maxOfOneClient)
	}
	r := one.limiter.ReserveN(now, 1)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return nil, api.TooMany(wait, "client makes more than %v requests per second", float64(c.limit))
	}
	one.busy++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		one.busy--
	}, nil
}

// sweep forgets the clients of which nothing needs to be known: none of their requests
// is under way and their burst is whole.
func (c *clients) sweep(now time.Time) (room bool) {
	for id, one := range c.by {
		if one.busy == 0 && one.limiter.TokensAt(now) >= float64(c.burst) {
			delete(c.by, id)
		}
	}
	return len(c.by) < maxClients
}
