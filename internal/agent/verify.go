package agent

import (
	"context"
	"io"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/netprobe"
	"mvm/internal/network"
)

// NetVerify implements api.Service.
func (a *Agent) NetVerify(ctx context.Context, live bool, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	found, err := a.opt.Network.Verify(ctx)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "verify networks: %w", err)
	}
	if a.resolver != nil {
		found = append(found, a.resolver.Findings()...)
	}
	if live {
		more, err := (&netprobe.Prober{Guests: probed{a}, Log: a.log}).Live(ctx, progress)
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

// probed is what live probes ask of the agent.
type probed struct{ a *Agent }

var _ netprobe.Guests = probed{}

// Exec implements netprobe.Guests.
func (p probed) Exec(ctx context.Context, id string, argv []string) (int, error) {
	return p.a.Exec(ctx, mvm.Address{Instance: id}, mvm.ExecSpec{Argv: argv}, mvm.ExecIO{Stdout: io.Discard, Stderr: io.Discard})
}

// Running implements netprobe.Guests.
func (p probed) Running(ctx context.Context) (network.Config, error) {
	all, err := p.a.networks.Config()
	if err != nil {
		return all, err
	}
	instances, err := p.a.Instances(ctx, mvm.Address{})
	if err != nil {
		return all, err
	}
	running := map[string]bool{}
	for _, i := range instances {
		running[i.ID] = i.State == mvm.StateRunning && p.a.live.Of(i.ID) != nil
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
	open, err := a.openNetworks(ctx)
	if err != nil {
		return nil, err
	}
	found, err := a.NetVerify(ctx, false, nil)
	return append(append(append(out, missing...), open...), found...), err
}

// openNetworks are findings for tenants from before networks were closed by default.
func (a *Agent) openNetworks(ctx context.Context) (out []mvm.Finding, err error) {
	tenants, err := a.Tenants(ctx)
	for _, t := range tenants {
		if !t.Closed {
			out = append(out, mvm.Finding{Severity: "warning", Where: t.ID, What: "the tenant's network is open: guests reach private networks, and users' instances each other",
				Fix: "set egress and peers of its pools where guests need more, then: mvm tenant update " + t.ID + " --closed"})
		}
	}
	return out, err
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
