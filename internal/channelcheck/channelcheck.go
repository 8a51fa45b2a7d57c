// Package channelcheck finds what is wrong with a tenant's channels: in the records, and by
// what its gateways say. The gateways ask the platforms, for only they have the tokens.
//
// A gateway is a hostile guest: of its word numbers, times and short texts are believed, and
// no fix comes from it.
package channelcheck

import (
	"context"
	"errors"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
)

// Guests are the tenant's records and gateways.
type Guests interface {
	Tenant(ctx context.Context, id string) (mvm.Tenant, mvm.Usage, error)
	Pools(ctx context.Context, tenant string) ([]mvm.Pool, error)
	Instances(ctx context.Context, filter mvm.Address) ([]mvm.Instance, error)
	Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error)
}

// Severities of findings.
const (
	fine    = "ok"
	warning = "warning"
	failure = "error"
)

// askTime bounds the answer of one gateway, which asks the platforms for 10 s at most.
const askTime = 15 * time.Second

// look is one look at a tenant.
type look struct {
	guests Guests
	now    time.Time
	tenant mvm.Tenant
	pools  []mvm.Pool
	all    []mvm.Instance
	found  []mvm.Finding
}

// Tenant checks the channels of a tenant, and returns what it found, the good things too, by
// pool and channel.
func Tenant(ctx context.Context, g Guests, id string, now time.Time) ([]mvm.Finding, error) {
	l := &look{guests: g, now: now}
	var err error
	if l.tenant, _, err = g.Tenant(ctx, id); err != nil {
		return nil, err
	}
	if l.pools, err = g.Pools(ctx, id); err != nil {
		return nil, err
	}
	if l.all, err = g.Instances(ctx, mvm.Address{Tenant: id}); err != nil {
		return nil, err
	}
	targets := map[string]bool{}
	for _, p := range l.pools {
		if len(p.Spec.Channels) > 0 {
			l.pool(ctx, p)
		}
		for _, c := range p.Spec.Channels {
			targets[c.To.PoolID] = true
		}
	}
	if len(targets) == 0 {
		l.add(fine, "the tenant has no channels", id, "")
	}
	for _, p := range l.pools {
		if targets[p.Spec.ID] {
			l.workers(p)
		}
	}
	return l.found, ctx.Err()
}

func (l *look) add(severity, what, where, fix string) {
	l.found = append(l.found, mvm.Finding{Severity: severity, What: what, Where: where, Fix: fix})
}

// pool checks the channels of a gateway pool.
func (l *look) pool(ctx context.Context, p mvm.Pool) {
	says := l.ask(ctx, p)
	for _, c := range p.Spec.Channels {
		where := p.Address().String() + " channel " + c.Name
		l.records(p, c, where)
		if says != nil {
			l.said(c, says, where)
		}
	}
}

// ask asks the pool's gateway how its channels are; nil: nobody says.
func (l *look) ask(ctx context.Context, p mvm.Pool) map[string]guestproto.ChannelCheck {
	i, ok := l.gateway(p)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	resp, err := l.guests.Ask(ctx, i.ID, guestproto.Request{CheckChannels: true})
	switch {
	case err != nil && strings.Contains(err.Error(), guestproto.NoVariant):
		l.add(warning, "this gateway runs an older mvm-guest, which can't check channels", i.Address().String(), "mvm pool restart "+p.Address().String())
		return nil
	case err == nil && resp.ChannelChecks == nil:
		err = errors.New("unexpected answer")
	}
	if err != nil {
		l.add(failure, "the gateway does not answer: "+display.Clip(err.Error()), i.Address().String(), "mvm why "+i.ID)
		return nil
	}
	says := map[string]guestproto.ChannelCheck{}
	list := resp.ChannelChecks.Channels
	for _, c := range list[:min(len(list), mvm.MaxChannels)] {
		says[c.Name] = c
	}
	return says
}

// gateway is the pool's instance that has the channels.
func (l *look) gateway(p mvm.Pool) (mvm.Instance, bool) {
	state := ""
	for _, i := range l.all {
		if i.Pool != p.Spec.ID {
			continue
		}
		if i.State == mvm.StateRunning {
			return i, true
		}
		state = i.Address().String() + " is " + string(i.State)
	}
	where, fix := p.Address().String(), "see `mvm ps "+p.Address().String()+"`, and start it with `mvm instance start`"
	if state == "" {
		state, fix = "the pool has no instance", "mvm pool scale "+p.Address().String()+" --running 1"
	}
	l.add(failure, "no gateway runs, so no message arrives: "+state, where, fix)
	return mvm.Instance{}, false
}

// workers tells of the instances to which channels lead what matters for messages.
func (l *look) workers(p mvm.Pool) {
	for _, i := range l.all {
		if i.Pool != p.Spec.ID {
			continue
		}
		where := i.Address().String()
		switch {
		case i.Problem != "":
			l.add(warning, i.Problem, where, "mvm why "+i.ID)
		case i.Stalled != "":
			l.add(warning, i.Stalled, where, "mvm why "+i.ID)
		case i.Health != nil && i.Health.Status == mvm.HealthFailing:
			l.add(warning, i.Health.Text(), where, "mvm logs "+i.ID)
		}
		if i.NextWake.IsZero() {
			continue
		}
		what := "next wake: " + i.NextWake.Local().Format(time.DateTime)
		if late := l.now.Sub(i.NextWake); late > lateWake && i.State != mvm.StateRunning {
			l.add(warning, what+", which is over", where, "mvm why "+i.ID)
			continue
		}
		l.add(fine, what, where, "")
	}
}

// lateWake is how late a next wake counts as missed.
const lateWake = time.Minute
