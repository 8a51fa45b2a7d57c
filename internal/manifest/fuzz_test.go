package manifest_test

import (
	"errors"
	"testing"

	"mvm"
	"mvm/internal/manifest"
)

// checkFuzz: an error of the parsers is of kind invalid and bounded; without one the
// result is valid.
func checkFuzz(t *testing.T, err error, validate func() error) {
	t.Helper()
	if err == nil {
		if err := validate(); err != nil {
			t.Errorf("what was taken is not valid: %v", err)
		}
		return
	}
	var ps manifest.Problems
	if !mvm.IsKind(err, mvm.KindInvalid) || !errors.As(err, &ps) || len(ps) == 0 {
		t.Errorf("got %v, want problems of kind invalid", err)
	}
	for _, p := range ps {
		if p.File != "m.toml" || p.Line < 0 || p.Line > 0 && p.Column < 1 {
			t.Errorf("a problem without its place: %#v", p)
		}
	}
	if n := len(err.Error()); n > 256<<10 {
		t.Errorf("the error has %d bytes", n)
	}
}

func anySecret(string) ([]byte, error) { return []byte("value"), nil }

func FuzzDeployment(f *testing.F) {
	for _, seed := range []string{example, everything, pool, "", "[[pools]]\n[pools.env]\n", "a.b.c = [[1], {x = 2}]", "tenant = []", "pools = {}\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := manifest.ParseDeployment("m.toml", data, anySecret)
		checkFuzz(t, err, d.Validate)
		if err == nil {
			writtenIsRead(t, d)
		}
	})
}

func FuzzNewConfig(f *testing.F) {
	for _, seed := range []string{newConfig, "", "[overrides]\nworkers = 1\n", "[overrides.gateways.env]\nA = \"b\"\n"} {
		f.Add([]byte(seed))
	}
	tpl, err := manifest.FindTemplate("openclaw", "")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := tpl.ParseNewConfig("m.toml", data, anySecret)
		checkFuzz(t, err, func() error {
			_, _, err := tpl.Deployment("a", c, manifest.NewOptions{})
			return err
		})
	})
}

// FuzzTemplate: a template that is taken has no problem of its own later, whatever its
// parameters are; what is made of it is valid.
func FuzzTemplate(f *testing.F) {
	f.Add([]byte(ownTemplate))
	for _, tpl := range manifest.Templates() {
		f.Add(tpl.Source())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tpl, err := manifest.ParseTemplate("m.toml", data)
		checkFuzz(t, err, func() error {
			d, _, err := tpl.Deployment("a", manifest.NewConfig{}, manifest.NewOptions{})
			if err == nil {
				writtenIsRead(t, d)
			}
			for _, p := range tpl.Params {
				if p.Required {
					return nil
				}
			}
			return err
		})
	})
}

func FuzzAgentConfig(f *testing.F) {
	for _, seed := range []string{"data_dir = \"/x\"\ndns = [\"1.1.1.1\"]\n", "", "log_level = 1", "[socket]\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkFuzz(t, manifest.ParseAgentConfig("m.toml", data), func() error { return nil })
	})
}

func FuzzProgram(f *testing.F) {
	for _, seed := range []string{"binary = \"./app\"\nport = 80\ncmd = \"app -x 'a b'\"\n", "cmd = [\"a\", 1]\n[[files]]\nsrc = \"a\"\n", "port = 0", "[env]\n", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := manifest.ParseProgram("m.toml", data)
		checkFuzz(t, err, func() error { return nil })
	})
}
