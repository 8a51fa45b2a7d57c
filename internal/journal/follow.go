package journal

import (
	"sync"

	"mvm"
)

// Who can wait for new events at once: of one tenant's, of all that ask for one
// tenant's, and of those that ask for every tenant's. A tenant's clients, which see
// their own events only, so keep neither another's nor the operator away.
const (
	maxTenantFollowers = 16
	maxFollowers       = 64
	maxHostFollowers   = 32
)

// followers counts who waits for new events. The zero value is ready.
type followers struct {
	mu   sync.Mutex
	by   map[string]int // by tenant, "" for all of the host's
	some int            // of single tenants
}

// enter takes a place for one that follows the tenant's events, "" for everybody's,
// and returns what gives it back. KindUnavailable when there is none left.
func (f *followers) enter(tenant string) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	limit := maxTenantFollowers
	if tenant == "" {
		limit = maxHostFollowers
	}
	if n := f.by[tenant]; n >= limit || tenant != "" && f.some >= maxFollowers {
		return nil, mvm.Errorf(mvm.KindUnavailable, "follow events: already %d followers", n).WithFix("try again later")
	}
	f.count(tenant, 1)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.count(tenant, -1)
	}, nil
}

func (f *followers) count(tenant string, n int) {
	if f.by == nil {
		f.by = map[string]int{}
	}
	if f.by[tenant] += n; f.by[tenant] == 0 {
		delete(f.by, tenant)
	}
	if tenant != "" {
		f.some += n
	}
}
