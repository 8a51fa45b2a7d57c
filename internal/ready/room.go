package ready

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"mvm"
	"mvm/internal/policy"
)

// Limits say what images may take of the host.
type Limits struct {
	Percent       int           // of the host's memory, for all images; 0: none is kept
	TenantPercent int           // of that, for those of one tenant
	Keep          time.Duration // how long an image is kept that nobody uses
	// FreePercent and StalledPercent say when the host is short of memory, so that idle instances
	// make room; see policy.MemoryLimits. Images go before.
	FreePercent, StalledPercent int
}

// The limits that hold where the agent's config names none.
const (
	DefaultPercent       = 10
	DefaultTenantPercent = 50
	DefaultKeep          = time.Hour
)

// How much more of the host's memory, in percent, than FreePercent has to be available for images
// to stay, and for a new one.
const (
	stayMargin = 5
	makeMargin = 10
)

// How soon the host's memory is measured again while there are images: before it can be short, if
// it is used up at usedUp bytes a second.
const (
	lookSoonest = 2 * time.Second
	lookLatest  = 30 * time.Second
	usedUp      = 256 << 20
)

var errNoRoom = errors.New("there is no room for it in memory")

// admit makes room for the image of an instance, or refuses it.
func (k *Keeper) admit(i mvm.Instance, bytes int64) error {
	m, err := k.opt.Memory()
	if err != nil {
		return err
	}
	l := k.opt.Limits
	k.mu.Lock()
	defer k.mu.Unlock()
	budget := int64(m.TotalMiB) << 20 / 100 * int64(l.Percent)
	most := budget / 100 * int64(l.TenantPercent)
	if k.making != i.ID || bytes > most || l.short(m, makeMargin) > -bytes {
		return errNoRoom
	}
	for k.total(i.Tenant)+bytes > most {
		k.drop(k.victim(i.Tenant, budget, i.Tenant))
	}
	for k.total("")+bytes > budget || len(k.images) >= maxImages {
		k.drop(k.victim("", budget, i.Tenant))
	}
	return nil
}

// victim is the image that goes first, of a tenant or, for "", of all: that of a tenant with more
// than an equal share of the budget, and among those the one that was not used for longest. An
// image of the coming tenant is to be kept, "": none. mu is held, and there are images.
func (k *Keeper) victim(tenant string, budget int64, coming string) string {
	tenants := map[string]int64{}
	if coming != "" {
		tenants[coming] = 0
	}
	for _, i := range k.images {
		tenants[i.tenant] += i.ready.Bytes
	}
	share := budget / int64(max(len(tenants), 1))
	over := func(id string) int {
		if tenants[k.images[id].tenant] > share {
			return 0
		}
		return 1
	}
	ids := slices.DeleteFunc(slices.Collect(maps.Keys(k.images)), func(id string) bool { return tenant != "" && k.images[id].tenant != tenant })
	return slices.MinFunc(ids, func(x, y string) int {
		return cmp.Or(cmp.Compare(over(x), over(y)), k.images[x].since.Compare(k.images[y].since), cmp.Compare(x, y))
	})
}

// short is by how many bytes the host's available memory is below what it is to be, with a margin
// in percent; below 0 where there is more. A host whose tasks wait for memory lacks all of it.
func (l Limits) short(m policy.Memory, margin int) int64 {
	total := int64(m.TotalMiB) << 20
	if l.StalledPercent > 0 && m.Stalled > float64(l.StalledPercent) {
		return total
	}
	return total/100*int64(l.FreePercent+margin) - int64(m.AvailableMiB)<<20
}

// Relieve gives images back if the host's memory, which was just measured, is short, and reports
// that it gave some. While it is called often enough, the keeper does not measure.
func (k *Keeper) Relieve(m policy.Memory) (some bool) {
	short := k.opt.Limits.short(m, stayMargin)
	budget := int64(m.TotalMiB) << 20 / 100 * int64(k.opt.Limits.Percent)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.look = time.Now().Add(min(max(lookSoonest, time.Duration(-short/usedUp)*time.Second), lookLatest))
	if short > 0 {
		k.callOff()
	}
	for short > 0 && len(k.images) > 0 {
		id := k.victim("", budget, "")
		short -= k.images[id].ready.Bytes
		k.drop(id)
		some = true
	}
	return some
}

// tidy gives back what was kept for long enough, and what the host needs. It returns after how
// long it is to be called again.
func (k *Keeper) tidy() time.Duration {
	if gap := k.expire(); gap > 0 {
		return gap
	}
	m, err := k.opt.Memory()
	if err != nil {
		k.opt.Log.Error("measure the host's memory", "error", err)
		return lookLatest
	}
	k.Relieve(m)
	return max(k.expire(), lookSoonest)
}

// expire gives back what was kept for long enough. It returns after how long the next image is or,
// if that is sooner, memory is to be measured: 0 is now.
func (k *Keeper) expire() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	next, now := k.look, time.Now()
	for id, i := range k.images {
		end := i.since.Add(k.opt.Limits.Keep)
		if !end.After(now) {
			k.drop(id)
		} else if end.Before(next) {
			next = end
		}
	}
	if len(k.images) == 0 {
		return 24 * time.Hour // what comes ends the wait
	}
	return max(next.Sub(now), 0)
}
