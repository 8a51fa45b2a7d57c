package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"mvm"
	"mvm/internal/api"
)

// script is a Service that records what it is asked and answers with set values, or
// with err.
type script struct {
	mu    sync.Mutex
	calls []string
	err   error

	block chan struct{} // when set, Operate, Apply, Logs and Exec wait for it or for ctx
	ended chan error    // when set, gets the cause when a blocked call's context ends

	exec func(ctx context.Context, spec mvm.ExecSpec, io mvm.ExecIO) (int, error)
}

var _ api.Service = (*script)(nil)

func (s *script) note(ctx context.Context, name string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, fmt.Sprintf("%s by %s: %s", name, mvm.AskerFrom(ctx), js(args)))
	return s.err
}

func (s *script) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) == 0 {
		return ""
	}
	return s.calls[len(s.calls)-1]
}

func (s *script) wait(ctx context.Context) error {
	if s.block == nil {
		return nil
	}
	select {
	case <-s.block:
		return nil
	case <-ctx.Done():
		if s.ended != nil {
			s.ended <- context.Cause(ctx)
		}
		return ctx.Err()
	}
}

func report(progress func(mvm.Progress)) {
	progress(mvm.Progress{Target: "acme", Text: "one", Done: 1, Total: 2})
	progress(mvm.Progress{Target: "acme", Text: "two", Done: 2, Total: 2})
}

var day = time.Date(2026, 2, 11, 10, 0, 0, 0, time.UTC)

func tenant() mvm.Tenant {
	return mvm.Tenant{ID: "acme", NetID: 3, Subnet: netip.MustParsePrefix("10.240.3.0/24"), Quota: mvm.DefaultQuota(), Ceilings: mvm.Limits{CPUPercent: 200},
		Created: day, SecretsGeneration: 2, SecretNames: []string{"k"}, HostServices: []int{11434}}
}

func poolSpec() mvm.PoolSpec {
	return mvm.PoolSpec{ID: "gateways", Role: mvm.RoleGateway, Profile: "minimal", Flake: "builtin:gateway",
		Resources: mvm.DefaultResources(), Policy: mvm.DefaultRuntimePolicy(), Desired: mvm.Counts{Running: 1},
		Publish: []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 8080}},
		Routes: &mvm.RoutingTable{Routes: []mvm.Route{{Name: "r", Match: mvm.MatchRule{Port: 8080},
			To: mvm.Target{PoolID: "workers", TargetPort: 80, Selector: mvm.Selector{Kind: mvm.SelectByKey, From: "header:x-user"}}}}}}
}

func pool() mvm.Pool {
	return mvm.Pool{Tenant: "acme", Spec: poolSpec(), Created: day, Builds: []mvm.Build{build()},
		Bound: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:40000")}}
}

func build() mvm.Build {
	return mvm.Build{ID: "b-00000001", Flake: "builtin:gateway", Digest: "sha256:aa", Built: day}
}

func instance() mvm.Instance {
	return mvm.Instance{ID: "i-a3f7b2c1", Tenant: "acme", Pool: "workers", Key: "bob", Role: mvm.RoleWorker, State: mvm.StateSleeping,
		Offset: 3, IP: netip.MustParseAddr("10.240.3.3"), MAC: "02:fc:00:03:00:03", Res: mvm.DefaultResources(), Created: day, Changed: day,
		Last:     &mvm.Transition{Op: mvm.OpSleep, From: mvm.StateRunning, To: mvm.StateSleeping, Took: time.Second, Stages: []mvm.Stage{{Name: "pause", Took: 3}}},
		Snapshot: &mvm.SnapshotRef{ID: "s-1", Bytes: 99}}
}

func event() mvm.Event {
	return mvm.Event{Seq: 7, Time: day, Action: mvm.InstanceSlept, Tenant: "acme", By: mvm.ParseAsker("policy"), Why: "idle"}
}

func logLine() mvm.LogLine {
	return mvm.LogLine{Time: day, Service: "main", Stream: "stdout", Text: "hi\tthere"}
}
func story() mvm.Story {
	return mvm.Story{Instance: instance(), TenantSecrets: 3, Transitions: []mvm.Transition{{Op: mvm.OpWake, From: mvm.StateSleeping, To: mvm.StateRunning, Started: day, Request: "r-1"}}, Notes: []mvm.Event{event()}}
}
func auditReport() mvm.AuditReport {
	return mvm.AuditReport{Entries: 3, First: 2, Last: 4, Head: "4:ab", Breaks: []mvm.AuditBreak{{Seq: 3, What: "gone"}}, BreakCount: 1}
}
func finding() mvm.Finding { return mvm.Finding{Severity: "error", What: "w", Where: "x", Fix: "f"} }
func step() mvm.PlanStep {
	return mvm.PlanStep{Action: "create", Target: "acme/workers", Reason: "missing"}
}
func usage() mvm.Usage {
	return mvm.Usage{VCPUs: 1, MemMiB: 2, Running: 3, Warm: 4, Pools: 5, DiskMiB: 6}
}
func instanceStats() mvm.InstanceStats {
	return mvm.InstanceStats{ID: "i-a3f7b2c1", State: mvm.StateRunning, PID: 4, CPU: 5, LastActive: day}
}

func asideSnapshot() mvm.AsideSnapshot {
	return mvm.AsideSnapshot{SetAside: mvm.SetAside{Snapshot: mvm.SnapshotRef{ID: "s-00000001", Bytes: 99, Taken: day}, Why: "damaged", At: day, DataDiskMiB: 64},
		Tenant: "acme", Pool: "workers", Instance: "i-a3f7b2c1", Until: day.Add(time.Hour), Misfit: "the disks have changed since"}
}
func (s *script) Snapshots(ctx context.Context, f mvm.Address) ([]mvm.AsideSnapshot, error) {
	return []mvm.AsideSnapshot{asideSnapshot()}, s.note(ctx, "Snapshots", f)
}
func message() mvm.Message {
	return mvm.Message{Tenant: "acme", Pool: "gateways", Number: 7, Channel: "support", ID: "Ev1", Chat: "c0ffee", Size: 2, Received: day, Changed: day, SetAside: true, Why: "the worker answered 400", Refusals: 5}
}
func (s *script) DoctorTenant(ctx context.Context, tenant string) ([]mvm.Finding, error) {
	return []mvm.Finding{finding()}, s.note(ctx, "DoctorTenant", tenant)
}
func (s *script) Messages(ctx context.Context, tenant string) ([]mvm.Message, error) {
	return []mvm.Message{message()}, s.note(ctx, "Messages", tenant)
}
func (s *script) Message(ctx context.Context, tenant, pool string, number int64) (mvm.Message, error) {
	m := message()
	m.Body = []byte("{}")
	return m, s.note(ctx, "Message", tenant, pool, number)
}
func (s *script) RetryMessage(ctx context.Context, tenant, pool string, number int64) error {
	return s.note(ctx, "RetryMessage", tenant, pool, number)
}
func (s *script) DropMessage(ctx context.Context, tenant, pool string, number int64) error {
	return s.note(ctx, "DropMessage", tenant, pool, number)
}
func (s *script) RestoreSnapshot(ctx context.Context, addr mvm.Address, id string) (mvm.Instance, error) {
	return instance(), s.note(ctx, "RestoreSnapshot", addr, id)
}
func (s *script) RemoveSnapshot(ctx context.Context, addr mvm.Address, id string) error {
	return s.note(ctx, "RemoveSnapshot", addr, id)
}
func (s *script) CreateTenant(ctx context.Context, spec mvm.TenantSpec) (mvm.Tenant, error) {
	return tenant(), s.note(ctx, "CreateTenant", spec)
}
func (s *script) UpdateTenant(ctx context.Context, id string, up mvm.TenantUpdate) (mvm.Tenant, error) {
	return tenant(), s.note(ctx, "UpdateTenant", id, up)
}
func (s *script) Tenants(ctx context.Context) ([]mvm.Tenant, error) {
	return []mvm.Tenant{tenant()}, s.note(ctx, "Tenants")
}
func (s *script) Tenant(ctx context.Context, id string) (mvm.Tenant, mvm.Usage, error) {
	return tenant(), usage(), s.note(ctx, "Tenant", id)
}
func (s *script) DestroyTenant(ctx context.Context, id string, progress func(mvm.Progress)) error {
	report(progress)
	return s.note(ctx, "DestroyTenant", id)
}
func (s *script) SetSecrets(ctx context.Context, tenant string, secrets map[string][]byte) (int, error) {
	return 5, s.note(ctx, "SetSecrets", tenant, secrets)
}
func (s *script) RotateKey(ctx context.Context, tenant string) error {
	return s.note(ctx, "RotateKey", tenant)
}

func (s *script) RotateSecrets(ctx context.Context, tenant string) (int, error) {
	return 6, s.note(ctx, "RotateSecrets", tenant)
}
func (s *script) CreatePool(ctx context.Context, tenant string, spec mvm.PoolSpec) (mvm.Pool, error) {
	return pool(), s.note(ctx, "CreatePool", tenant, spec)
}
func (s *script) UpdatePool(ctx context.Context, tenant, id string, up mvm.PoolUpdate) (mvm.Pool, error) {
	return pool(), s.note(ctx, "UpdatePool", tenant, id, up)
}
func (s *script) Pools(ctx context.Context, tenant string) ([]mvm.Pool, error) {
	return []mvm.Pool{pool()}, s.note(ctx, "Pools", tenant)
}
func (s *script) Pool(ctx context.Context, tenant, id string) (mvm.Pool, error) {
	return pool(), s.note(ctx, "Pool", tenant, id)
}
func (s *script) BuildPool(ctx context.Context, tenant, id string, progress func(mvm.Progress)) (mvm.Build, error) {
	report(progress)
	return build(), s.note(ctx, "BuildPool", tenant, id)
}
func (s *script) RollbackPool(ctx context.Context, tenant, id, b string) (mvm.Build, error) {
	return build(), s.note(ctx, "RollbackPool", tenant, id, b)
}
func (s *script) GCPool(ctx context.Context, tenant, id string) ([]mvm.Build, error) {
	return nil, s.note(ctx, "GCPool", tenant, id)
}
func (s *script) DestroyPool(ctx context.Context, tenant, id string, progress func(mvm.Progress)) error {
	report(progress)
	return s.note(ctx, "DestroyPool", tenant, id)
}
func (s *script) CreateInstance(ctx context.Context, tenant, id, key string) (mvm.Instance, error) {
	return instance(), s.note(ctx, "CreateInstance", tenant, id, key)
}
func (s *script) Instances(ctx context.Context, filter mvm.Address) ([]mvm.Instance, error) {
	return []mvm.Instance{instance()}, s.note(ctx, "Instances", filter)
}
func (s *script) Instance(ctx context.Context, addr mvm.Address) (mvm.Instance, error) {
	return instance(), s.note(ctx, "Instance", addr)
}
func (s *script) Operate(ctx context.Context, addr mvm.Address, req mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error) {
	err := s.note(ctx, "Operate", addr, req)
	report(progress)
	if w := s.wait(ctx); w != nil {
		err = w
	}
	return instance(), err
}
func (s *script) Exec(ctx context.Context, addr mvm.Address, spec mvm.ExecSpec, streams mvm.ExecIO) (int, error) {
	if err := s.note(ctx, "Exec", addr, spec); err != nil {
		return -1, err
	}
	if s.exec != nil {
		return s.exec(ctx, spec, streams)
	}
	_, err := io.Copy(streams.Stdout, streams.Stdin)
	return 0, err
}
func (s *script) Copy(ctx context.Context, addr mvm.Address, spec mvm.CopySpec, streams mvm.ExecIO) (int, error) {
	if err := s.note(ctx, "Copy", addr, spec); err != nil {
		return -1, err
	}
	_, err := io.Copy(streams.Stdout, streams.Stdin)
	return 0, err
}
func (s *script) Logs(ctx context.Context, addr mvm.Address, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	err := s.note(ctx, "Logs", addr, spec)
	if e := line(logLine()); e != nil { // the client has left already
		if s.ended != nil {
			s.ended <- e
		}
		return e
	}
	if spec.Follow {
		return s.wait(ctx)
	}
	return err
}
func (s *script) Why(ctx context.Context, addr mvm.Address) (mvm.Story, error) {
	return story(), s.note(ctx, "Why", addr)
}
func (s *script) Stats(ctx context.Context, addr mvm.Address) (mvm.InstanceStats, error) {
	return instanceStats(), s.note(ctx, "Stats", addr)
}
func (s *script) Usage(ctx context.Context, filter mvm.Address) ([]mvm.InstanceUsage, error) {
	return []mvm.InstanceUsage{instanceUsage()}, s.note(ctx, "Usage", filter)
}
func instanceUsage() mvm.InstanceUsage {
	return mvm.InstanceUsage{ID: "i-a3f7b2c1", Tenant: "acme", Pool: "workers", Key: "bob", State: mvm.StateRunning, VCPUs: 2, MemMiB: 1024,
		Measured: time.Date(2026, 2, 11, 10, 0, 0, 0, time.UTC), CPU: time.Second, RSSBytes: 1, RxBytes: 2, TxBytes: 3, DiskRead: 4, DiskWritten: 5,
		Connections: 6, Error: "none"}
}
func (s *script) Apply(ctx context.Context, d mvm.Deployment, opts mvm.ApplyOptions, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	if opts.Check != nil { // as the agent does, before anything changes
		have := tenant()
		if err := opts.Check(&have, []mvm.Pool{pool()}); err != nil {
			return nil, err
		}
	}
	err := s.note(ctx, "Apply", d, d.Secrets == nil, opts)
	report(progress)
	if w := s.wait(ctx); w != nil {
		err = w
	}
	return []mvm.PlanStep{step()}, err
}
func (s *script) Reconcile(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	err := s.note(ctx, "Reconcile", req)
	report(progress)
	return []mvm.PlanStep{step()}, err
}
func (s *script) Desired(ctx context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"node_id":"n"}`), s.note(ctx, "Desired")
}
func (s *script) Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error {
	if err := s.note(ctx, "Events", f); err != nil {
		return err
	}
	return each(event())
}
func (s *script) VerifyEvents(ctx context.Context, expect string) (mvm.AuditReport, error) {
	return auditReport(), s.note(ctx, "VerifyEvents", expect)
}
func (s *script) NodeInfo(ctx context.Context) (mvm.NodeInfo, error) {
	return mvm.NodeInfo{NodeID: "n", Started: day, CPUs: 2}, s.note(ctx, "NodeInfo")
}
func (s *script) NodeStats(ctx context.Context) (mvm.NodeStats, error) {
	return mvm.NodeStats{Instances: map[mvm.State]int{mvm.StateWarm: 1}, AgentRSS: 3}, s.note(ctx, "NodeStats")
}
func (s *script) NodeDisk(ctx context.Context) (mvm.NodeDisk, error) {
	return mvm.NodeDisk{Images: 1, Sleepers: 2, DataDisks: 3, SetAside: 4, Logs: 6, Other: 7, Free: 5}, s.note(ctx, "NodeDisk")
}
func (s *script) NodeCheck(ctx context.Context, how mvm.NodeCheck, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	report(progress)
	return []mvm.Finding{finding()}, s.note(ctx, "NodeCheck", how)
}
func (s *script) NodeGC(ctx context.Context) (int64, error) { return 77, s.note(ctx, "NodeGC") }
func (s *script) NetVerify(ctx context.Context, live bool, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	report(progress)
	return []mvm.Finding{finding()}, s.note(ctx, "NetVerify", live)
}
func (s *script) Doctor(ctx context.Context) ([]mvm.Finding, error) {
	return []mvm.Finding{finding()}, s.note(ctx, "Doctor")
}
