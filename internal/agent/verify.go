package agent

import (
	"context"

	"mvm"
)

// NetVerify implements api.Service.
func (a *Agent) NetVerify(ctx context.Context, live bool, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	found, err := a.opt.Network.Verify(ctx)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "verify networks: %w", err)
	}
	var out []mvm.Finding
	for _, f := range found {
		out = append(out, mvm.Finding{Severity: f.Severity, What: f.What, Where: f.Where, Fix: f.Fix})
	}
	return out, nil
}

// Doctor implements api.Service.
func (a *Agent) Doctor(ctx context.Context) ([]mvm.Finding, error) {
	out := []mvm.Finding{{Severity: "ok", What: "driver " + a.info.Name + " " + a.info.Version, Where: a.info.Accelerator + ": " + a.info.Why}}
	instances, err := a.Instances(ctx, mvm.Address{})
	if err != nil {
		return nil, err
	}
	for _, i := range instances {
		if i.Problem != "" {
			out = append(out, mvm.Finding{Severity: "warning", What: i.Problem, Where: i.Address().String(), Fix: "mvm logs " + i.ID})
		}
	}
	net, err := a.NetVerify(ctx, false, nil)
	return append(out, net...), err
}
