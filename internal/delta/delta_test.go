package delta_test

import (
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/delta"
)

func spec(change func(*mvm.PoolSpec)) mvm.PoolSpec {
	s := mvm.PoolSpec{ID: "workers", Flake: "builtin:minimal", Resources: mvm.Resources{VCPUs: 1, MemMiB: 256},
		Env: map[string]string{"KEPT": "same", "TOKEN": "old-value", "GONE": "old-value"}}
	if change != nil {
		change(&s)
	}
	return s
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*mvm.PoolSpec)
		want   string
		names  []string
	}{
		{"nothing", nil, "", nil},
		{"a number within an object", func(s *mvm.PoolSpec) { s.Resources.MemMiB = 512 }, "resources.mem_mib 256 -> 512", []string{"resources"}},
		{"text", func(s *mvm.PoolSpec) { s.Flake = "builtin:gateway" }, `flake "builtin:minimal" -> "builtin:gateway"`, []string{"flake"}},
		{"what is hidden", func(s *mvm.PoolSpec) {
			s.Env = map[string]string{"KEPT": "same", "TOKEN": "new-value", "NEW": "new-value"}
		},
			"env (GONE removed, NEW added, TOKEN changed)", []string{"env"}},
		{"a list", func(s *mvm.PoolSpec) { s.SecretScopes = []mvm.SecretScope{{}} }, "secret_scopes", []string{"secret_scopes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := delta.Text(spec(nil), spec(c.change), "env"); got != c.want {
				t.Errorf("text %q, want %q", got, c.want)
			}
			if got := delta.Names(spec(nil), spec(c.change)); !slices.Equal(got, c.names) {
				t.Errorf("names %q, want %q", got, c.names)
			}
		})
	}
}

func TestTextIsBounded(t *testing.T) {
	got := delta.Text(spec(nil), spec(func(s *mvm.PoolSpec) {
		s.Flake = strings.Repeat("é", 1000)
		s.Publish = []mvm.Publish{{}}
		for range 500 {
			s.Env[strings.Repeat("N", len(s.Env))] = "secret-value"
		}
	}), "env")
	if len(got) > 900 || strings.Contains(got, "secret-value") || strings.ToValidUTF8(got, "") != got {
		t.Errorf("%d bytes: %.200q", len(got), got)
	}
	if !strings.HasSuffix(got, "(in all: env, flake, publish)") {
		t.Errorf("many changes hide another: %q", got)
	}
}
