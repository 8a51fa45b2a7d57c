package manifest

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"mvm"
)

// DefaultPool is what a pool is that a manifest says nothing of.
func DefaultPool() mvm.PoolSpec {
	return mvm.PoolSpec{Role: mvm.RoleWorker, Profile: "minimal", Resources: mvm.DefaultResources(), Policy: mvm.DefaultRuntimePolicy()}
}

func (t *table) pool() mvm.PoolSpec {
	s := DefaultPool()
	t.needStr("id", &s.ID, validName("pool"))
	role := string(s.Role)
	t.str("role", &role, validRole)
	s.Role = mvm.Role(role)
	t.needStr("flake", &s.Flake, mvm.ValidateFlake)
	t.integer("desired_running", &s.Desired.Running, 0, mvm.MaxDesired)
	t.integer("desired_warm", &s.Desired.Warm, 0, mvm.MaxDesired)
	t.integer("desired_sleeping", &s.Desired.Sleeping, 0, mvm.MaxDesired)
	t.settings(&s)
	s.Channels = t.channels()
	t.forGateways(s.Role, "channels")
	t.done()
	return s
}

// settings reads all that a pool has beside its name, role, image, counts and channels. What
// the table does not say stays as it is in s, which shares nothing with another pool.
func (t *table) settings(s *mvm.PoolSpec) {
	t.str("profile", &s.Profile, validName("profile"))
	t.resources(&s.Resources)
	t.policy(&s.Policy)
	t.boolean("pinned", &s.Pinned)
	t.boolean("critical", &s.Critical)
	t.str("wake_catch_up", (*string)(&s.WakeCatchUp), validCatchUp)
	if env := t.env(); s.Env == nil {
		s.Env = env
	} else {
		maps.Copy(s.Env, env)
	}
	if list := t.publish(); list != nil {
		s.Publish = list
	}
	if table := t.routes(); table != nil {
		s.Routes = table
	}
	if _, ok := t.vals["secret_scopes"]; ok {
		s.SecretScopes = nil
	}
	s.SecretScopes = append(s.SecretScopes, t.scopes()...)
	if _, ok := t.vals["integrations"]; ok {
		s.Integrations = nil
	}
	s.Integrations = append(s.Integrations, t.integrations()...)
	t.forGateways(s.Role, "routes", "publish")
}

// forGateways finds keys that a pool of another role does not have.
func (t *table) forGateways(role mvm.Role, keys ...string) {
	for _, key := range keys {
		if _, ok := t.vals[key]; ok && role != mvm.RoleGateway {
			t.item(key, nil).problem("is for pools with role gateway, and this has role %s", role)
		}
	}
}

func validRole(s string) error {
	if !mvm.Role(s).Valid() {
		return fmt.Errorf("%q is not one of gateway, builder, worker, capability-imessage", clip(s))
	}
	return nil
}

func validCatchUp(s string) error {
	if s == "" {
		return fmt.Errorf("%q is not one of once, skip, all", s)
	}
	return mvm.CatchUp(s).Validate()
}

func (t *table) resources(r *mvm.Resources) {
	t.integer("vcpus", &r.VCPUs, 1, mvm.MaxVCPUs)
	t.integer("mem_mib", &r.MemMiB, mvm.MinMemMiB, mvm.MaxMemMiB)
	t.integer("data_disk_mib", &r.DataDiskMiB, 0, mvm.MaxDiskMiB)
}

func (t *table) policy(p *mvm.RuntimePolicy) {
	t.integer("min_running_seconds", &p.MinRunningSeconds, 0, mvm.MaxPolicySeconds)
	t.integer("min_warm_seconds", &p.MinWarmSeconds, 0, mvm.MaxPolicySeconds)
	t.integer("drain_timeout_seconds", &p.DrainTimeoutSeconds, 0, mvm.MaxPolicySeconds)
	t.integer("graceful_shutdown_seconds", &p.GracefulShutdownSeconds, 0, mvm.MaxPolicySeconds)
	t.integer("warm_after_seconds", &p.WarmAfterSeconds, 0, mvm.MaxPolicySeconds)
	t.integer("sleep_after_seconds", &p.SleepAfterSeconds, 0, mvm.MaxPolicySeconds)
	t.integer("idle_cpu_percent", &p.IdleCPUPercent, 1, mvm.MaxIdleCPUPercent)
	t.integer("idle_bytes_per_minute", &p.IdleBytesPerMinute, 1, mvm.MaxIdleBytesPerMinute)
	t.integer("quiet_connection_seconds", &p.QuietConnectionSeconds, 0, mvm.MaxPolicySeconds)
}

// env reads the optional table of environment variables.
func (t *table) env() map[string]string {
	sub := t.sub("env")
	if sub == nil {
		return nil
	}
	out, total := map[string]string{}, 0
	for _, name := range sub.names() {
		i, _ := sub.get(name)
		v, ok := i.str()
		if !ok {
			continue
		}
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(v, 0) {
			i.problem("is not the name and value of an environment variable")
		}
		total += len(name) + len(v)
		out[name] = v
	}
	if len(out) > mvm.MaxEnv || total > mvm.MaxEnvBytes {
		sub.here().problem("is larger than %d entries or %d bytes", mvm.MaxEnv, mvm.MaxEnvBytes)
	}
	return out
}

// publish reads the optional list of published ports.
func (t *table) publish() []mvm.Publish {
	list, ok := t.items("publish", mvm.MaxPublish)
	if !ok {
		return nil
	}
	out, seen := []mvm.Publish{}, map[string]bool{}
	for _, i := range list {
		s, ok := i.str()
		if !ok {
			continue
		}
		p, err := mvm.ParsePublish(s)
		if !i.check(err) {
			continue
		}
		if p.Host.Port() != 0 && seen[p.Host.String()] {
			i.problem("%s is published twice", p.Host)
		}
		seen[p.Host.String()] = true
		out = append(out, p)
	}
	return out
}

func (t *table) scopes() []mvm.SecretScope {
	var out []mvm.SecretScope
	for _, sub := range t.tables("secret_scopes", mvm.MaxScopes) {
		var s mvm.SecretScope
		sub.needStr("integration", &s.Integration, validName("integration"))
		keys, ok := sub.items("keys", maxSecrets)
		if !ok && sub.vals["keys"] == nil {
			sub.here().problem("keys is missing")
		}
		for _, i := range keys {
			if k, ok := i.str(); ok && i.check(mvm.ValidateSecretName(k)) {
				s.Keys = append(s.Keys, k)
			}
		}
		sub.done()
		out = append(out, s)
	}
	return out
}

func (t *table) integrations() []mvm.Integration {
	var out []mvm.Integration
	seen := map[string]bool{}
	for _, sub := range t.tables("integrations", mvm.MaxIntegrations) {
		var n mvm.Integration
		sub.needStr("name", &n.Name, validName("integration"))
		sub.str("checkpoint_cmd", &n.CheckpointCmd, validCommand)
		sub.str("restore_cmd", &n.RestoreCmd, validCommand)
		sub.boolean("critical", &n.Critical)
		sub.integer("timeout_seconds", &n.TimeoutSeconds, 1, int(mvm.MaxIntegrationTimeout/time.Second))
		sub.done()
		if n.Name != "" && seen[n.Name] {
			sub.item("name", nil).problem("integration %q is given twice", n.Name)
		}
		seen[n.Name] = true
		out = append(out, n)
	}
	return out
}

func validCommand(s string) error {
	if s == "" || len(s) > 4096 || strings.ContainsRune(s, 0) {
		return fmt.Errorf("must be a command of 1 to 4096 bytes")
	}
	return nil
}
