package api

import (
	"context"

	"mvm"
)

// scope is the Service as a tenant's client sees it: its own tenant and nothing else.
// A name of another tenant is refused without a look at whether it is there; an
// instance id alone that is another tenant's is as if it were not there.
//
// It does not embed the Service, so that a new method does not compile until
// somebody has decided here what it means for a tenant.
type scope struct {
	svc       Service
	caller    Caller
	readsHost func(ref string) bool // of an image
}

var _ Service = (*scope)(nil)

// own refuses every tenant but the caller's.
func (s *scope) own(tenant string) error {
	if tenant != s.caller.Tenant {
		return mvm.Errorf(mvm.KindPolicy, "refused to %s: this client may not use tenant %s", s.caller.Asker, tenant).
			WithFix("this client's certificate is for tenant %s only", s.caller.Tenant)
	}
	return nil
}

// resolve makes sure that the address is of an instance of the caller's tenant.
func (s *scope) resolve(ctx context.Context, addr mvm.Address) (mvm.Address, error) {
	if addr.Tenant != "" {
		return addr, s.own(addr.Tenant)
	}
	i, err := s.svc.Instance(ctx, addr)
	switch {
	case mvm.IsKind(err, mvm.KindNotFound) || err == nil && i.Tenant != s.caller.Tenant:
		return addr, mvm.Errorf(mvm.KindNotFound, "instance %s does not exist", addr)
	case err != nil:
		return addr, err
	}
	return i.Address(), nil
}

func (s *scope) operatorsOnly(what string) error { return s.caller.refuse("%s", what) }

// CreateTenant implements Service.
func (s *scope) CreateTenant(context.Context, mvm.TenantSpec) (mvm.Tenant, error) {
	return mvm.Tenant{}, s.operatorsOnly("create a tenant")
}

// UpdateTenant implements Service: quota and host services are not the tenant's to set.
func (s *scope) UpdateTenant(context.Context, string, mvm.TenantUpdate) (mvm.Tenant, error) {
	return mvm.Tenant{}, s.operatorsOnly("change a tenant")
}

// DestroyTenant implements Service.
func (s *scope) DestroyTenant(context.Context, string, func(mvm.Progress)) error {
	return s.operatorsOnly("destroy a tenant")
}

// Tenants implements Service.
func (s *scope) Tenants(ctx context.Context) ([]mvm.Tenant, error) {
	t, _, err := s.svc.Tenant(ctx, s.caller.Tenant)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return nil, nil
	}
	return []mvm.Tenant{t}, err
}

// Tenant implements Service.
func (s *scope) Tenant(ctx context.Context, id string) (mvm.Tenant, mvm.Usage, error) {
	if err := s.own(id); err != nil {
		return mvm.Tenant{}, mvm.Usage{}, err
	}
	return s.svc.Tenant(ctx, id)
}

// SetSecrets implements Service.
func (s *scope) SetSecrets(ctx context.Context, tenant string, secrets map[string][]byte) (int, error) {
	if err := s.own(tenant); err != nil {
		return 0, err
	}
	return s.svc.SetSecrets(ctx, tenant, secrets)
}

// RotateKey implements Service: keys of the host are not the tenant's to set.
func (s *scope) RotateKey(context.Context, string) error {
	return s.operatorsOnly("rotate a tenant's key")
}

// RotateSecrets implements Service.
func (s *scope) RotateSecrets(ctx context.Context, tenant string) (int, error) {
	if err := s.own(tenant); err != nil {
		return 0, err
	}
	return s.svc.RotateSecrets(ctx, tenant)
}

// Instances implements Service.
func (s *scope) Instances(ctx context.Context, f mvm.Address) ([]mvm.Instance, error) {
	if f == (mvm.Address{}) {
		f.Tenant = s.caller.Tenant
	}
	f, err := s.resolve(ctx, f)
	if err != nil {
		return nil, err
	}
	list, err := s.svc.Instances(ctx, f)
	if mvm.IsKind(err, mvm.KindNotFound) && f == (mvm.Address{Tenant: s.caller.Tenant}) {
		return nil, nil // the certificate may be older than the tenant
	}
	return list, err
}

// Instance implements Service.
func (s *scope) Instance(ctx context.Context, addr mvm.Address) (mvm.Instance, error) {
	addr, err := s.resolve(ctx, addr)
	if err != nil {
		return mvm.Instance{}, err
	}
	return s.svc.Instance(ctx, addr)
}

// Why implements Service.
func (s *scope) Why(ctx context.Context, addr mvm.Address) (mvm.Story, error) {
	addr, err := s.resolve(ctx, addr)
	if err != nil {
		return mvm.Story{}, err
	}
	return s.svc.Why(mvm.WithRecord(ctx), addr)
}

// Operate implements Service.
func (s *scope) Operate(ctx context.Context, addr mvm.Address, req mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error) {
	addr, err := s.resolve(ctx, addr)
	if err != nil {
		return mvm.Instance{}, err
	}
	return s.svc.Operate(ctx, addr, req, progress)
}

// Exec implements Service.
func (s *scope) Exec(ctx context.Context, addr mvm.Address, spec mvm.ExecSpec, io mvm.ExecIO) (int, error) {
	addr, err := s.resolve(ctx, addr)
	if err != nil {
		return -1, err
	}
	return s.svc.Exec(ctx, addr, spec, io)
}

// Copy implements Service.
func (s *scope) Copy(ctx context.Context, addr mvm.Address, spec mvm.CopySpec, io mvm.ExecIO) (int, error) {
	addr, err := s.resolve(ctx, addr)
	if err != nil {
		return -1, err
	}
	return s.svc.Copy(ctx, addr, spec, io)
}

// Logs implements Service.
func (s *scope) Logs(ctx context.Context, addr mvm.Address, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	addr, err := s.resolve(ctx, addr)
	if err != nil {
		return err
	}
	spec.Record = true
	return s.svc.Logs(ctx, addr, spec, line)
}

// Stats implements Service.
func (s *scope) Stats(ctx context.Context, addr mvm.Address) (mvm.InstanceStats, error) {
	addr, err := s.resolve(ctx, addr)
	if err != nil {
		return mvm.InstanceStats{}, err
	}
	return s.svc.Stats(ctx, addr)
}

// Usage implements Service.
func (s *scope) Usage(ctx context.Context, f mvm.Address) ([]mvm.InstanceUsage, error) {
	if f == (mvm.Address{}) {
		f.Tenant = s.caller.Tenant
	}
	f, err := s.resolve(ctx, f)
	if err != nil {
		return nil, err
	}
	list, err := s.svc.Usage(ctx, f)
	if mvm.IsKind(err, mvm.KindNotFound) && f == (mvm.Address{Tenant: s.caller.Tenant}) {
		return nil, nil // the certificate may be older than the tenant
	}
	return list, err
}

// Snapshots implements Service.
func (s *scope) Snapshots(ctx context.Context, f mvm.Address) ([]mvm.AsideSnapshot, error) {
	if f == (mvm.Address{}) {
		f.Tenant = s.caller.Tenant
	}
	f, err := s.resolve(ctx, f)
	if err != nil {
		return nil, err
	}
	list, err := s.svc.Snapshots(ctx, f)
	if mvm.IsKind(err, mvm.KindNotFound) && f == (mvm.Address{Tenant: s.caller.Tenant}) {
		return nil, nil // the certificate may be older than the tenant
	}
	return list, err
}

// RestoreSnapshot implements Service.
func (s *scope) RestoreSnapshot(ctx context.Context, addr mvm.Address, id string) (mvm.Instance, error) {
	addr, err := s.resolve(ctx, addr)
	if err != nil {
		return mvm.Instance{}, err
	}
	return s.svc.RestoreSnapshot(ctx, addr, id)
}

// RemoveSnapshot implements Service.
func (s *scope) RemoveSnapshot(ctx context.Context, addr mvm.Address, id string) error {
	addr, err := s.resolve(ctx, addr)
	if err != nil {
		return err
	}
	return s.svc.RemoveSnapshot(ctx, addr, id)
}

// Events implements Service: a tenant's client gets the events of its tenant.
func (s *scope) Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error {
	if f.Tenant == "" {
		f.Tenant = s.caller.Tenant
	}
	if err := s.own(f.Tenant); err != nil {
		return err
	}
	return s.svc.Events(ctx, f, func(e mvm.Event) error {
		if e.Tenant != s.caller.Tenant {
			return nil
		}
		return each(e)
	})
}

// VerifyEvents implements Service: the log is the host's, with every tenant in it.
func (s *scope) VerifyEvents(context.Context, string) (mvm.AuditReport, error) {
	return mvm.AuditReport{}, s.operatorsOnly("verify the audit log")
}

// NodeInfo implements Service.
func (s *scope) NodeInfo(context.Context) (mvm.NodeInfo, error) {
	return mvm.NodeInfo{}, s.operatorsOnly("look at the host")
}

// NodeStats implements Service.
func (s *scope) NodeStats(context.Context) (mvm.NodeStats, error) {
	return mvm.NodeStats{}, s.operatorsOnly("look at the host")
}

// NodeDisk implements Service.
func (s *scope) NodeDisk(context.Context) (mvm.NodeDisk, error) {
	return mvm.NodeDisk{}, s.operatorsOnly("look at the host")
}

// NodeCheck implements Service.
func (s *scope) NodeCheck(context.Context, mvm.NodeCheck, func(mvm.Progress)) ([]mvm.Finding, error) {
	return nil, s.operatorsOnly("check the host's data")
}

// NodeGC implements Service.
func (s *scope) NodeGC(context.Context) (int64, error) {
	return 0, s.operatorsOnly("clean the host up")
}

// NetVerify implements Service.
func (s *scope) NetVerify(context.Context, bool, func(mvm.Progress)) ([]mvm.Finding, error) {
	return nil, s.operatorsOnly("check the host's networks")
}

// Doctor implements Service.
func (s *scope) Doctor(context.Context) ([]mvm.Finding, error) {
	return nil, s.operatorsOnly("check the host")
}
