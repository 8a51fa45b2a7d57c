package fake_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
)

// TestManyAtOnce takes many instances through sleeps and wakes at the same time,
// while somebody talks to their guests all along.
func TestManyAtOnce(t *testing.T) {
	const instances, rounds = 16, 8
	root := testenv.Dir(t)
	host := fake.NewHost()
	defer host.Close()
	d := fake.New(host, fake.Options{Latency: func(op fake.Op, id string) time.Duration {
		return time.Duration(len(op)*int(id[len(id)-1])%3) * 100 * time.Microsecond
	}})
	var all sync.WaitGroup
	errs := make([]error, instances)
	for i := range instances {
		spec := newSpec(t, root, fmt.Sprintf("i-%08x", i))
		snap := drivertest.Snapshot(t, spec)
		all.Go(func() { errs[i] = lives(t.Context(), d, spec, snap, rounds) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if got := host.Violations(); len(got) > 0 {
		t.Errorf("violations: %q", got)
	}
	if got := host.VMMs(); len(got) > 0 {
		t.Errorf("left: %+v", got)
	}
}

// lives sleeps and wakes the instance, counting in the guest's memory.
func lives(ctx context.Context, d driver.Driver, spec driver.Spec, snap driver.Snapshot, rounds int) error {
	v, err := d.Start(ctx, spec)
	if err != nil {
		return err
	}
	for n := range rounds {
		talk, quiet := context.WithCancel(ctx)
		var talker sync.WaitGroup
		talker.Go(func() {
			for talk.Err() == nil {
				_, _ = ask(talk, v, guestproto.Request{Ping: true}) // the VMM goes away below
			}
		})
		resp, err := ask(ctx, v, configure("boot", n))
		if err == nil && resp.ConfigureAck.Generation != n {
			err = fmt.Errorf("generation %d, want %d", resp.ConfigureAck.Generation, n)
		}
		err = errors.Join(err, v.Pause(ctx), v.Snapshot(ctx, snap), v.Kill(ctx))
		quiet()
		talker.Wait()
		if err != nil {
			return fmt.Errorf("round %d: %w", n, err)
		}
		if v, err = d.Restore(ctx, spec, snap); err != nil {
			return err
		}
		if err := v.Resume(ctx); err != nil {
			return err
		}
	}
	return d.Destroy(ctx, spec)
}
