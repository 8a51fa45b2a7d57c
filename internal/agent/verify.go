package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/network"
	"mvm/internal/session"
)

// Bounds of live probes.
const (
	probeTimeout = 20 * time.Second // one command in a guest
	probesAtOnce = 4                // guests at a time
)

// NetVerify implements api.Service.
func (a *Agent) NetVerify(ctx context.Context, live bool, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	found, err := a.opt.Network.Verify(ctx)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "verify networks: %w", err)
	}
	if live {
		more, err := a.probeLive(ctx, progress)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	out := make([]mvm.Finding, 0, len(found))
	for _, f := range found {
		out = append(out, mvm.Finding{Severity: f.Severity, What: f.What, Where: f.Where, Fix: f.Fix})
	}
	return out, nil
}

// probeLive tries, from every running guest that has the tools, all the ways that
// must be closed, and those that must be open. While it runs, a port answers on
// every address of the host, so that an open way shows.
func (a *Agent) probeLive(ctx context.Context, progress func(mvm.Progress)) ([]network.Finding, error) {
	cfg, err := a.runningConfig(ctx)
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
	able, untried := a.probeAble(ctx, cfg)
	for _, p := range network.Probes(cfg, host) {
		switch {
		case !able[p.Instance]:
		case p.Disturbs:
			disturbing[p.Instance] = append(disturbing[p.Instance], p)
		default:
			quiet[p.Instance] = append(quiet[p.Instance], p)
		}
	}
	found, err := a.probeGuests(ctx, quiet, probesAtOnce, progress)
	if err != nil {
		return nil, err
	}
	more, err := a.probeGuests(ctx, disturbing, 1, progress)
	return slices.Concat(untried, found, more), err
}

// probeAble says which guests have the tools, and finds fault with the others; with
// none at all nothing is known, which is an error.
func (a *Agent) probeAble(ctx context.Context, cfg network.Config) (map[string]bool, []network.Finding) {
	const fix = "run an instance of builtin:minimal in the tenant and verify again"
	able := map[string]bool{}
	var out []network.Finding
	for _, t := range cfg.Tenants {
		for _, i := range t.Instances {
			if code, err := a.runProbe(ctx, i.ID, []string{"ip", "link"}); err == nil && code != session.NotExecuted {
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

// runningConfig is the networks' config with the instances that run.
func (a *Agent) runningConfig(ctx context.Context) (network.Config, error) {
	all, err := a.networkConfig()
	if err != nil {
		return all, err
	}
	instances, err := a.Instances(ctx, mvm.Address{})
	if err != nil {
		return all, err
	}
	running := map[string]bool{}
	for _, i := range instances {
		running[i.ID] = i.State == mvm.StateRunning && a.liveOf(i.ID) != nil
	}
	for n := range all.Tenants {
		var keep []network.Instance
		for _, i := range all.Tenants[n].Instances {
			if running[i.ID] {
				keep = append(keep, i)
			}
		}
		all.Tenants[n].Instances = keep
	}
	return all, nil
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

func (a *Agent) probeGuests(ctx context.Context, byGuest map[string][]network.Probe, atOnce int, progress func(mvm.Progress)) ([]network.Finding, error) {
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
			found := a.probeGuest(ctx, id, probes)
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
func (a *Agent) probeGuest(ctx context.Context, id string, probes []network.Probe) (out []network.Finding) {
	for _, p := range probes {
		if f, wrong := a.probe(ctx, id, p); wrong {
			out = append(out, f)
		}
	}
	return out
}

// probe prepares, tries and restores.
func (a *Agent) probe(ctx context.Context, id string, p network.Probe) (network.Finding, bool) {
	failed := func(err error) (network.Finding, bool) {
		return network.Finding{Severity: "warning", Where: id, What: "a probe could not be made: " + display.Clip(err.Error())}, true
	}
	defer func() {
		for _, argv := range p.Restore {
			if _, err := a.runProbe(context.WithoutCancel(ctx), id, argv); err != nil {
				a.log.Warn("restore guest after a probe", "instance", id, "error", err)
			}
		}
	}()
	for _, argv := range p.Prepare {
		if code, err := a.runProbe(ctx, id, argv); err != nil || code != 0 {
			return failed(errors.Join(fmt.Errorf("%v ended with %d", argv, code), err))
		}
	}
	code, err := a.runProbe(ctx, id, p.Argv)
	if err == nil && p.Reach && code != 0 { // a packet may be lost: once more
		code, err = a.runProbe(ctx, id, p.Argv)
	}
	if err != nil {
		return failed(err)
	}
	return p.Judge(code)
}

func (a *Agent) runProbe(ctx context.Context, id string, argv []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return a.Exec(ctx, mvm.Address{Instance: id}, mvm.ExecSpec{Argv: argv}, mvm.ExecIO{Stdout: io.Discard, Stderr: io.Discard})
}

// Doctor implements api.Service.
func (a *Agent) Doctor(ctx context.Context) ([]mvm.Finding, error) {
	info, err := a.driverInfo(ctx)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "probe driver: %w", err)
	}
	out := []mvm.Finding{driverFinding(info)}
	instances, err := a.Instances(ctx, mvm.Address{})
	if err != nil {
		return nil, err
	}
	for _, i := range instances {
		if i.Problem != "" {
			out = append(out, mvm.Finding{Severity: "warning", What: i.Problem, Where: i.Address().String(), Fix: "mvm logs " + i.ID})
		}
	}
	missing, err := a.unpublishedPorts(ctx)
	if err != nil {
		return nil, err
	}
	found, err := a.NetVerify(ctx, false, nil)
	return append(append(out, missing...), found...), err
}

// driverFinding says with what guests run, and how good that is.
func driverFinding(info driver.Info) mvm.Finding {
	f := mvm.Finding{Severity: "ok", What: "driver " + info.Name + " " + info.Version, Where: info.Accelerator + ": " + info.Why}
	if info.Accelerator == driver.Software {
		f.Severity = "warning"
		f.What += ": guests run in software, several times slower, and that does not isolate as well"
		f.Fix = "run mvm on a host whose KVM works; production mode takes no other"
	}
	return f
}

// unpublishedPorts are findings for ports that are to be published and are not.
func (a *Agent) unpublishedPorts(ctx context.Context) (out []mvm.Finding, err error) {
	pools, err := a.Pools(ctx, "")
	for _, p := range pools {
		for n, pub := range p.Spec.Publish {
			if n >= len(p.Bound) || !p.Bound[n].IsValid() {
				what := "port " + pub.Place() + " is not published"
				if p.Unpublished != "" {
					what += ": " + p.Unpublished
				}
				out = append(out, mvm.Finding{Severity: "error", What: what, Where: p.Address().String(),
					Fix: "free the address for the agent, which tries every few seconds, or change the pool's publish"})
			}
		}
	}
	return out, err
}
