package manifest

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"mvm"
	"mvm/internal/egress"
	"mvm/internal/limits"
	"mvm/internal/stricttoml"
)

// DefaultPool is what a pool is that a manifest says nothing of.
func DefaultPool() mvm.PoolSpec {
	return mvm.PoolSpec{Role: mvm.RoleWorker, Profile: "minimal", Resources: mvm.DefaultResources(), Policy: mvm.DefaultRuntimePolicy()}
}

func readPool(t *stricttoml.Table) mvm.PoolSpec {
	s := DefaultPool()
	t.NeedStr("id", &s.ID, validName("pool"))
	role := string(s.Role)
	t.Str("role", &role, validRole)
	s.Role = mvm.Role(role)
	t.NeedStr("flake", &s.Flake, mvm.ValidateFlake)
	t.Integer("desired_running", &s.Desired.Running, 0, mvm.MaxDesired)
	t.Integer("desired_warm", &s.Desired.Warm, 0, mvm.MaxDesired)
	t.Integer("desired_sleeping", &s.Desired.Sleeping, 0, mvm.MaxDesired)
	readSettings(t, &s)
	s.Channels = readChannels(t)
	onlyGatewaysHave(t, s.Role, "channels")
	t.Done()
	return s
}

// readSettings reads all that a pool has beside its name, role, image, counts and channels. What
// the table does not say stays as it is in s, which shares nothing with another pool.
func readSettings(t *stricttoml.Table, s *mvm.PoolSpec) {
	t.Str("profile", &s.Profile, validName("profile"))
	readResources(t, &s.Resources)
	readPolicy(t, &s.Policy)
	readLimits(t.Sub("limits"), &s.Limits)
	t.Boolean("pinned", &s.Pinned)
	t.Boolean("critical", &s.Critical)
	t.Str("wake_catch_up", (*string)(&s.WakeCatchUp), validCatchUp)
	if env := readEnv(t); s.Env == nil {
		s.Env = env
	} else {
		maps.Copy(s.Env, env)
	}
	t.Boolean("peers", &s.Peers)
	if list := readEgress(t); list != nil {
		s.Egress = list
	}
	if list := readPublish(t); list != nil {
		s.Publish = list
	}
	if table := readRoutes(t); table != nil {
		s.Routes = table
	}
	if _, ok := t.Vals["secret_scopes"]; ok {
		s.SecretScopes = nil
	}
	s.SecretScopes = append(s.SecretScopes, readScopes(t)...)
	if _, ok := t.Vals["integrations"]; ok {
		s.Integrations = nil
	}
	s.Integrations = append(s.Integrations, readIntegrations(t)...)
	onlyGatewaysHave(t, s.Role, "routes", "publish")
}

// onlyGatewaysHave finds keys that a pool of another role does not have.
func onlyGatewaysHave(t *stricttoml.Table, role mvm.Role, keys ...string) {
	for _, key := range keys {
		if _, ok := t.Vals[key]; ok && role != mvm.RoleGateway {
			t.Item(key, nil).Problem("is for pools with role gateway, and this has role %s", role)
		}
	}
}

func validRole(s string) error {
	if !mvm.Role(s).Valid() {
		return fmt.Errorf("%q is not one of gateway, builder, worker, capability-imessage", stricttoml.Clip(s))
	}
	return nil
}

func validCatchUp(s string) error {
	if s == "" {
		return fmt.Errorf("%q is not one of once, skip, all", s)
	}
	return mvm.CatchUp(s).Validate()
}

func readResources(t *stricttoml.Table, r *mvm.Resources) {
	t.Integer("vcpus", &r.VCPUs, 1, mvm.MaxVCPUs)
	t.Integer("mem_mib", &r.MemMiB, mvm.MinMemMiB, mvm.MaxMemMiB)
	t.Integer("data_disk_mib", &r.DataDiskMiB, 0, mvm.MaxDiskMiB)
}

func readPolicy(t *stricttoml.Table, p *mvm.RuntimePolicy) {
	t.Integer("min_running_seconds", &p.MinRunningSeconds, 0, mvm.MaxPolicySeconds)
	t.Integer("min_warm_seconds", &p.MinWarmSeconds, 0, mvm.MaxPolicySeconds)
	t.Integer("drain_timeout_seconds", &p.DrainTimeoutSeconds, 0, mvm.MaxPolicySeconds)
	t.Integer("graceful_shutdown_seconds", &p.GracefulShutdownSeconds, 0, mvm.MaxPolicySeconds)
	t.Integer("warm_after_seconds", &p.WarmAfterSeconds, 0, mvm.MaxPolicySeconds)
	t.Integer("sleep_after_seconds", &p.SleepAfterSeconds, 0, mvm.MaxPolicySeconds)
	t.Integer("idle_cpu_percent", &p.IdleCPUPercent, 1, mvm.MaxIdleCPUPercent)
	t.Integer("idle_bytes_per_minute", &p.IdleBytesPerMinute, 1, mvm.MaxIdleBytesPerMinute)
	t.Integer("quiet_connection_seconds", &p.QuietConnectionSeconds, 0, mvm.MaxPolicySeconds)
}

// readLimits reads an optional table of limits.
func readLimits(sub *stricttoml.Table, l *mvm.Limits) {
	if sub == nil {
		return
	}
	for _, s := range limits.Settings() {
		sub.Integer(s.Name, s.At(l), 1, s.Max)
	}
	sub.Done()
}

// readEnv reads the optional table of environment variables.
func readEnv(t *stricttoml.Table) map[string]string {
	sub := t.Sub("env")
	if sub == nil {
		return nil
	}
	out, total := map[string]string{}, 0
	for _, name := range sub.Names() {
		i, _ := sub.Get(name)
		v, ok := i.Str()
		if !ok {
			continue
		}
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(v, 0) {
			i.Problem("is not the name and value of an environment variable")
		}
		total += len(name) + len(v)
		out[name] = v
	}
	if len(out) > mvm.MaxEnv || total > mvm.MaxEnvBytes {
		sub.Here().Problem("is larger than %d entries or %d bytes", mvm.MaxEnv, mvm.MaxEnvBytes)
	}
	return out
}

// readEgress reads the optional list of private destinations.
func readEgress(t *stricttoml.Table) []string {
	list, ok := t.Items("egress", egress.Max)
	if !ok {
		return nil
	}
	out := []string{}
	for _, i := range list {
		s, ok := i.Str()
		if !ok {
			continue
		}
		if _, err := egress.Parse(s); i.Check(err) {
			out = append(out, s)
		}
	}
	return out
}

// readPublish reads the optional list of published ports.
func readPublish(t *stricttoml.Table) []mvm.Publish {
	list, ok := t.Items("publish", mvm.MaxPublish)
	if !ok {
		return nil
	}
	out, seen := []mvm.Publish{}, map[string]bool{}
	for _, i := range list {
		s, ok := i.Str()
		if !ok {
			continue
		}
		p, err := mvm.ParsePublish(s)
		if !i.Check(err) {
			continue
		}
		if p.Host.Port() != 0 && seen[p.Host.String()] {
			i.Problem("%s is published twice", p.Host)
		}
		seen[p.Host.String()] = true
		out = append(out, p)
	}
	return out
}

func readScopes(t *stricttoml.Table) []mvm.SecretScope {
	var out []mvm.SecretScope
	for _, sub := range t.Tables("secret_scopes", mvm.MaxScopes) {
		var s mvm.SecretScope
		sub.NeedStr("integration", &s.Integration, validName("integration"))
		keys, ok := sub.Items("keys", maxSecrets)
		if !ok && sub.Vals["keys"] == nil {
			sub.Here().Problem("keys is missing")
		}
		for _, i := range keys {
			if k, ok := i.Str(); ok && i.Check(mvm.ValidateSecretName(k)) {
				s.Keys = append(s.Keys, k)
			}
		}
		sub.Done()
		out = append(out, s)
	}
	return out
}

func readIntegrations(t *stricttoml.Table) []mvm.Integration {
	var out []mvm.Integration
	seen := map[string]bool{}
	for _, sub := range t.Tables("integrations", mvm.MaxIntegrations) {
		var n mvm.Integration
		sub.NeedStr("name", &n.Name, validName("integration"))
		sub.Str("checkpoint_cmd", &n.CheckpointCmd, validCommand)
		sub.Str("restore_cmd", &n.RestoreCmd, validCommand)
		sub.Boolean("critical", &n.Critical)
		sub.Integer("timeout_seconds", &n.TimeoutSeconds, 1, int(mvm.MaxIntegrationTimeout/time.Second))
		sub.Done()
		if n.Name != "" && seen[n.Name] {
			sub.Item("name", nil).Problem("integration %q is given twice", n.Name)
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
