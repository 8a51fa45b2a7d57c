// Package netprobe tries the networks of the tenants from inside: from every running guest
// that has the tools it tries all the ways that must be closed, and those that must be open.
package netprobe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/network"
)

// Guests are the guests that run.
type Guests interface {
	// Running is the networks' config with the instances that run.
	Running(ctx context.Context) (network.Config, error)
	// Exec runs a command in the instance and returns its exit code, 127 where the guest has
	// no such command.
	Exec(ctx context.Context, id string, argv []string) (int, error)
}

// Prober tries networks.
type Prober struct {
	Guests Guests
	Log    *slog.Logger
}

// notExecuted is the exit code of a command that the guest has not.
const notExecuted = 127

// Bounds of live probes.
const (
	probeTimeout = 20 * time.Second // one command in a guest
	probesAtOnce = 4                // guests at a time
)

// Live tries, from every running guest that has the tools, all the ways that
// must be closed, and those that must be open. While it runs, a port answers on
// every address of the host, so that an open way shows.
func (p *Prober) Live(ctx context.Context, progress func(mvm.Progress)) ([]network.Finding, error) {
	cfg, err := p.Guests.Running(ctx)
	if err != nil {
		return nil, err
	}
	lure, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "open a port to probe: %w", err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() { closeEach(lure) })
	defer func() { lure.Close(); accepting.Wait() }()
	host := network.ProbeHost{Port: lure.Addr().(*net.TCPAddr).Port}
	if host.Addrs, err = hostAddrs(cfg); err != nil {
		return nil, err
	}
	quiet, disturbing := map[string][]network.Probe{}, map[string][]network.Probe{}
	able, untried := p.probeAble(ctx, cfg)
	for _, try := range network.Probes(cfg, host) {
		switch {
		case !able[try.Instance]:
		case try.Disturbs:
			disturbing[try.Instance] = append(disturbing[try.Instance], try)
		default:
			quiet[try.Instance] = append(quiet[try.Instance], try)
		}
	}
	found, err := p.probeGuests(ctx, quiet, probesAtOnce, progress)
	if err != nil {
		return nil, err
	}
	more, err := p.probeGuests(ctx, disturbing, 1, progress)
	return slices.Concat(untried, found, more), err
}

// probeAble says which guests have the tools, and finds fault with the others; with
// none at all nothing is known, which is an error.
func (p *Prober) probeAble(ctx context.Context, cfg network.Config) (map[string]bool, []network.Finding) {
	const fix = "run an instance of builtin:minimal in the tenant and verify again"
	able := map[string]bool{}
	var out []network.Finding
	for _, t := range cfg.Tenants {
		for _, i := range t.Instances {
			if code, err := p.runProbe(ctx, i.ID, []string{"ip", "link"}); err == nil && code != notExecuted {
				able[i.ID] = true
				continue
			}
			out = append(out, network.Finding{Severity: "warning", Where: t.ID + "/" + i.ID, Fix: fix,
				What: "nothing was tried from this guest: it has no ip, ping, arping and nc"})
		}
	}
	if len(able) == 0 && len(out) > 0 {
		out = append(out, network.Finding{Severity: "error", Where: "this host", Fix: fix,
			What: "nothing was tried: no running guest has the tools for live probes"})
	}
	return able, out
}

func closeEach(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

// hostAddrs are the host's IPv4 addresses that belong to no tenant.
func hostAddrs(cfg network.Config) (out []netip.Addr, err error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "list addresses of the host: %w", err)
	}
next:
	for _, x := range addrs {
		p, err := netip.ParsePrefix(x.String())
		if err != nil || !p.Addr().Is4() || p.Addr().IsLoopback() {
			continue
		}
		for _, t := range cfg.Tenants {
			if t.Subnet.Contains(p.Addr()) {
				continue next
			}
		}
		out = append(out, p.Addr())
	}
	return out, nil
}

func (p *Prober) probeGuests(ctx context.Context, byGuest map[string][]network.Probe, atOnce int, progress func(mvm.Progress)) ([]network.Finding, error) {
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		out  []network.Finding
		slot = make(chan struct{}, atOnce)
	)
	for id, probes := range byGuest {
		wg.Go(func() {
			slot <- struct{}{}
			defer func() { <-slot }()
			if progress != nil {
				mu.Lock()
				progress(mvm.Progress{Target: id, Text: fmt.Sprintf("trying %d ways", len(probes))})
				mu.Unlock()
			}
			found := p.probeGuest(ctx, id, probes)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, found...)
			if progress != nil {
				progress(mvm.Progress{Target: id, Text: fmt.Sprintf("%d probes, %d findings", len(probes), len(found))})
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, mvm.Errorf(mvm.KindCanceled, "probe networks: %w", context.Cause(ctx))
	}
	return out, nil
}

// probeGuest runs the probes of one guest, one after the other.
func (p *Prober) probeGuest(ctx context.Context, id string, probes []network.Probe) (out []network.Finding) {
	for _, try := range probes {
		if f, wrong := p.probe(ctx, id, try); wrong {
			out = append(out, f)
		}
	}
	return out
}

// probe prepares, tries and restores.
func (p *Prober) probe(ctx context.Context, id string, try network.Probe) (network.Finding, bool) {
	failed := func(err error) (network.Finding, bool) {
		return network.Finding{Severity: "warning", Where: id, What: "a probe could not be made: " + display.Clip(err.Error())}, true
	}
	defer func() {
		for _, argv := range try.Restore {
			if _, err := p.runProbe(context.WithoutCancel(ctx), id, argv); err != nil {
				p.Log.Warn("restore guest after a probe", "instance", id, "error", err)
			}
		}
	}()
	for _, argv := range try.Prepare {
		if code, err := p.runProbe(ctx, id, argv); err != nil || code != 0 {
			return failed(errors.Join(fmt.Errorf("%v ended with %d", argv, code), err))
		}
	}
	code, err := p.runProbe(ctx, id, try.Argv)
	if err == nil && try.Reach && code != 0 { // a packet may be lost: once more
		code, err = p.runProbe(ctx, id, try.Argv)
	}
	if err != nil {
		return failed(err)
	}
	return try.Judge(code)
}

func (p *Prober) runProbe(ctx context.Context, id string, argv []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return p.Guests.Exec(ctx, id, argv)
}
