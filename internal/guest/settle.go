package guest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// Times of telling services.
const (
	tellDebounce = 200 * time.Millisecond // changes that come together are told once
	tellTimeout  = 10 * time.Second
	tellTries    = 3
	tellRetry    = time.Second
	settleMost   = 2 * time.Minute // for all that Settle waits for
)

// settler brings services to where they should be: those that hold still go on, and
// those that are to be told of new secrets are. One does so at a time.
type settler struct {
	agent *Agent
	turn  chan struct{} // held while services are asked or told

	mu      sync.Mutex
	version int               // of the secrets, counted here
	told    map[string]int    // version that a service has seen
	tried   map[string]int    // version of which telling was given up
	failed  map[string]string // why it could not be told
}

func newSettler(a *Agent) *settler {
	return &settler{agent: a, turn: make(chan struct{}, 1), told: map[string]int{}, tried: map[string]int{}, failed: map[string]string{}}
}

// changed notes that there are new secrets.
func (t *settler) changed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version++
}

// starts notes that a service starts: it reads the secrets that are there now, and
// does not hold still.
func (t *settler) starts(service string) {
	t.agent.suspension.set(service, false, "")
	t.agent.nextWake.said(service, "")
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told[service] = t.version
	delete(t.failed, service)
}

// due returns the ready services that are to be told, and the version to tell of.
func (t *settler) due() ([]workload.Service, int) {
	ready := t.agent.sup.ReadyOnes(func(d workload.Service) bool { return d.OnSecrets != nil })
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []workload.Service
	for _, d := range ready {
		if t.told[d.Name] < t.version && t.tried[d.Name] < t.version {
			out = append(out, d)
		}
	}
	return out, t.version
}

// anyDue reports whether a service is to be told and can be now.
func (t *settler) anyDue() bool {
	due, _ := t.due()
	return len(due) > 0 && !t.agent.suspension.anyHeld()
}

// wake has every service go on, and told, after the machine stood still.
func (t *settler) wake() { _ = t.settle(t.agent.stopping) }

// tellSoon tells services, changes that come together once. Those that hold still are
// told when they go on.
func (t *settler) tellSoon() {
	ctx := t.agent.stopping
	release, err := t.take(ctx)
	if err != nil {
		return
	}
	defer release()
	select {
	case <-time.After(tellDebounce):
	case <-ctx.Done():
	}
	if !t.agent.suspension.anyHeld() {
		t.tellAll(ctx)
	}
}

// settle has every service go on and told, and returns what did not work.
func (t *settler) settle(ctx context.Context) error {
	release, err := t.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := t.agent.suspension.goOn(ctx); err != nil {
		return err
	}
	t.tellAll(ctx)
	return errors.Join(ctx.Err(), t.problem())
}

func (t *settler) take(ctx context.Context) (release func(), err error) {
	select {
	case t.turn <- struct{}{}:
		return func() { <-t.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait until services are told: %w", ctx.Err())
	}
}

// tellAll tells services until all were told of the secrets in force.
func (t *settler) tellAll(ctx context.Context) {
	for due, version := t.due(); len(due) > 0 && ctx.Err() == nil; due, version = t.due() {
		for _, d := range due {
			t.tell(ctx, d, version)
		}
	}
}

// tell tells one service, a few times if it must.
func (t *settler) tell(ctx context.Context, d workload.Service, version int) {
	var err error
	for n := range tellTries {
		if n > 0 {
			select {
			case <-time.After(tellRetry):
			case <-ctx.Done():
				return
			}
		}
		if err = t.agent.tellOnce(ctx, d); err == nil || ctx.Err() != nil {
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	t.tried[d.Name] = version
	if err == nil {
		t.told[d.Name] = version
		delete(t.failed, d.Name)
		t.agent.log.Info("told of new secrets", "service", d.Name)
		return
	}
	t.failed[d.Name] = strings.ReplaceAll(err.Error(), "\n", "; ")
	t.agent.log.Error("tell of new secrets", "service", d.Name, "error", err)
}

// problem says which services could not be told of the secrets in force.
func (t *settler) problem() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, d := range t.agent.services {
		if why := t.failed[d.Name]; why != "" {
			errs = append(errs, fmt.Errorf("service %s could not be told of new secrets: %s", d.Name, why))
		}
	}
	return errors.Join(errs...)
}

// tellOnce tells a service by the way that its definition names.
func (a *Agent) tellOnce(ctx context.Context, d workload.Service) error {
	h := d.OnSecrets
	timeout := tellTimeout
	if h.TimeoutSecs > 0 {
		timeout = time.Duration(h.TimeoutSecs) * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within %s", timeout))
	defer cancel()
	switch {
	case h.Signal != "":
		return a.sup.Signal(d.Name, signals(h.Signal))
	case h.HTTP != "":
		_, err := workload.HTTPPost(ctx, h.HTTP, map[string]string{})
		return err
	}
	return a.sup.RunAs(ctx, d.Name, h.Command)
}

// signals returns the signal of a name that OnSecrets may have, 0 for any other.
func signals(name string) syscall.Signal {
	switch strings.TrimPrefix(name, "SIG") {
	case "HUP":
		return unix.SIGHUP
	case "USR1":
		return unix.SIGUSR1
	case "USR2":
		return unix.SIGUSR2
	}
	return 0
}

// answerSettle waits until all is settled, and at most for settleMost.
func (a *Agent) answerSettle(ctx context.Context) guestproto.Response {
	ctx, cancel := context.WithTimeout(ctx, settleMost)
	defer cancel()
	result := ack(a.settler.settle(ctx))
	return guestproto.Response{SettleAck: &guestproto.SettleAck{Success: result.Success, Detail: result.Detail}}
}
