package cli_test

import (
	"context"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/api"
)

// raced is a service whose tenant somebody else changes after each look at it.
type raced struct {
	api.Service
	tenant mvm.Tenant
	others []func(*mvm.Tenant)
}

func (r *raced) NodeInfo(context.Context) (mvm.NodeInfo, error) { return mvm.NodeInfo{}, nil }

func (r *raced) Tenant(context.Context, string) (mvm.Tenant, mvm.Usage, error) {
	seen := r.tenant
	if len(r.others) > 0 {
		r.others[0](&r.tenant)
		r.others = r.others[1:]
	}
	return seen, mvm.Usage{}, nil
}

func (r *raced) UpdateTenant(_ context.Context, _ string, up mvm.TenantUpdate) (mvm.Tenant, error) {
	if err := up.Check(r.tenant); err != nil {
		return mvm.Tenant{}, err
	}
	if up.Quota != nil {
		r.tenant.Quota = *up.Quota
	}
	return r.tenant, nil
}

// TestTenantUpdateUndoesNothing: a tenant update that names one limit does not put back
// another limit that somebody changed after the command had read the quota.
func TestTenantUpdateUndoesNothing(t *testing.T) {
	svc := &raced{tenant: mvm.Tenant{ID: "acme", Quota: mvm.DefaultQuota()},
		others: []func(*mvm.Tenant){
			func(o *mvm.Tenant) { o.Quota.MaxRunning = 50 },
			func(o *mvm.Tenant) { o.Pinned = true }, // nothing that the command would write
		}}
	args := []string{"tenant", "update", "acme", "--max-warm", "3"}
	_, stderr, code := run(t, svc, args...)
	if code != 4 || !strings.Contains(stderr, "somebody else has changed it") || svc.tenant.Quota.MaxRunning != 50 {
		t.Errorf("the first update ended with %d and %q, max_running %d; want 4, refused, and 50 kept", code, stderr, svc.tenant.Quota.MaxRunning)
	}
	if _, stderr, code = run(t, svc, args...); code != 0 || svc.tenant.Quota.MaxRunning != 50 || svc.tenant.Quota.MaxWarm != 3 {
		t.Errorf("the second update ended with %d and %q, quota %+v; want 0, max_running 50, max_warm 3", code, stderr, svc.tenant.Quota)
	}
}
