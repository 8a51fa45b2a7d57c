// Package packaging_test holds the units of this folder to what they promise.
package packaging_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"mvm/internal/manifest"
	"mvm/internal/store"
	"mvm/internal/testenv"
)

// exposure is what systemd may rate each service at most, of 10.
// hostd makes namespaces and mounts for the jails of VMMs, and opens port 53 of the tenants'
// gateway addresses, which systemd counts.
var exposure = map[string]float64{"mvm-agent": 2.0, "mvm-hostd": 4.7, "mvm-guests": 2.0}

func analyze(t *testing.T, args ...string) (string, error) {
	t.Helper()
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatalf("%v: run scripts/setup --test", err)
	}
	out, err := exec.CommandContext(t.Context(), program, append(args, "--no-pager")...).CombinedOutput()
	return string(out), err
}

var rate = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

// The agent has next to nothing, hostd what its work takes.
func TestExposure(t *testing.T) {
	for name, most := range exposure {
		unit := filepath.Join("systemd", name+".service")
		out, err := analyze(t, "security", "--offline=true", "--threshold="+strconv.Itoa(int(most*10)), unit)
		m := rate.FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		got, perr := strconv.ParseFloat(m[1], 64)
		if err != nil || perr != nil || got > most {
			t.Errorf("%s is rated %s, at most %.1f may be: %v\n%s", name, m[1], most, errors.Join(err, perr), out)
		}
		t.Logf("%s is rated %.1f", name, got)
	}
}

// systemd understands every line, and would start what is there.
func TestVerify(t *testing.T) {
	dir := t.TempDir()
	var units []string
	for name := range exposure {
		b, err := os.ReadFile(filepath.Join("systemd", name+".service"))
		if err != nil {
			t.Fatal(err)
		}
		unit := filepath.Join(dir, name+".service")
		text := strings.ReplaceAll(string(b), "=/usr/bin/mvm ", "="+testenv.Mvm(t)+" ")
		if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		units = append(units, unit)
	}
	verify := append([]string{"verify", "--man=no", "--recursive-errors=no"}, units...)
	out, err := analyze(t, verify...)
	if err != nil || strings.Contains(out, dir) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	dropIn(t, dir)
	out, err = analyze(t, verify...)
	known := tooNew.ReplaceAllString(out, "")
	if err != nil && known == out || strings.Contains(known, dir) {
		t.Errorf("systemd-analyze verify, with the drop-in of hostd: %v\n%s", err, out)
	}
}

// tooNew is what systemd before 254, which the drop-in is not for, says of it.
var tooNew = regexp.MustCompile(`(?m)^.*: Unknown key (name )?'DelegateSubgroup' in section .*$`)

// dropIn puts hostd's drop-in beside its unit in dir.
func dropIn(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("systemd", "mvm-hostd-cgroup2.conf"))
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "mvm-hostd.service.d")
	if err := errors.Join(os.Mkdir(to, 0o755), os.WriteFile(filepath.Join(to, "cgroup2.conf"), b, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// settings are what a unit says, by key; a key may be there several times.
func settings(t *testing.T, unit string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("systemd", unit))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(k, "#") {
			out[k] = append(out[k], v)
		}
	}
	return out
}

// config is the agent's config with a unit's environment.
func config(t *testing.T, unit string) manifest.AgentConfig {
	t.Helper()
	env := map[string]string{}
	for _, e := range settings(t, unit)["Environment"] {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	cfg, err := manifest.LoadAgentConfig(manifest.AgentSources{Lookup: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
	if err != nil {
		t.Fatal(err)
	}
	for k := range env {
		key := strings.ToLower(strings.TrimPrefix(k, "MVM_"))
		if strings.HasPrefix(k, "MVM_") && cfg.Origin(key) != k {
			t.Errorf("%s sets %s, which is no key of the config", unit, k)
		}
	}
	return cfg
}

// Both halves mean the same host and the same socket, and the user that hostd answers
// is the one that the agent runs as.
func TestUnitsAgree(t *testing.T) {
	agent, hostd := config(t, "mvm-agent.service"), config(t, "mvm-hostd.service")
	if agent.Hostd != hostd.Hostd || agent.Hostd.Socket == "" || agent.DataDir != hostd.DataDir || agent.RunDir != hostd.RunDir {
		t.Errorf("the agent is told %+v, %s, %s, and hostd %+v, %s, %s", agent.Hostd, agent.DataDir, agent.RunDir, hostd.Hostd, hostd.DataDir, hostd.RunDir)
	}
	s := settings(t, "mvm-agent.service")
	if user := strings.Join(s["User"], ","); user != agent.Hostd.User {
		t.Errorf("the agent runs as %q, and hostd answers %q", user, agent.Hostd.User)
	}
	for key, want := range map[string]string{"CapabilityBoundingSet": "", "AmbientCapabilities": "", "NoNewPrivileges": "yes", "RuntimeDirectoryPreserve": "yes"} {
		if got := strings.Join(s[key], "|"); got != want {
			t.Errorf("the agent's %s is %q, want %q", key, got, want)
		}
	}
	if got := settings(t, "mvm-hostd.service")["KillMode"]; len(got) != 1 || got[0] != "process" {
		t.Errorf("hostd's KillMode is %v: VMMs would end with it", got)
	}
}

// The users of VMMs that the documentation of the system's users names are those that
// instances get.
func TestUsers(t *testing.T) {
	b, err := os.ReadFile("sysusers.d/mvm.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{store.DefaultUIDBase, store.DefaultUIDBase + store.DefaultUIDCount - 1} {
		if !strings.Contains(string(b), strconv.Itoa(n)) {
			t.Errorf("sysusers.d/mvm.conf does not name %d", n)
		}
	}
}
