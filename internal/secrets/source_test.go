package secrets_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/secrets"
)

// place is a source of each kind that has the same key.
func place(t *testing.T) (file, credential, env secrets.Source) {
	t.Helper()
	dir := t.TempDir()
	master := bytes.Repeat([]byte("K"), secrets.KeySize)
	creds := filepath.Join(dir, "creds")
	if err := os.Mkdir(creds, 0o750); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{filepath.Join(dir, "master.key"): 0o600, filepath.Join(creds, "mvm-master-key"): 0o440} {
		if err := os.WriteFile(path, master, mode); err != nil {
			t.Fatal(err)
		}
	}
	return secrets.Source{File: filepath.Join(dir, "master.key"), FileGiven: true, DataDir: filepath.Join(dir, "data")},
		secrets.Source{File: "/etc/mvm/master.key", Credential: "mvm-master-key", CredentialDir: creds},
		secrets.Source{File: "/etc/mvm/master.key", Env: base64.StdEncoding.EncodeToString(master)}
}

func TestEverySourceGivesTheKey(t *testing.T) {
	file, credential, env := place(t)
	k, err := file.Load()
	if err != nil {
		t.Fatal(err)
	}
	sealed := seal(t, k, "acme", 1)
	for _, s := range []secrets.Source{credential, env} {
		other, err := s.Load()
		if err != nil {
			t.Errorf("%s: %v", s.Where(), err)
			continue
		}
		if _, err := other.Open("acme", 1, sealed); err != nil {
			t.Errorf("%s gives another key: %v", s.Where(), err)
		}
		if err := s.Check(); err != nil {
			t.Errorf("check %s: %v", s.Where(), err)
		}
	}
}

func TestSourcesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(file, credential, env *secrets.Source) *secrets.Source
		want  string
	}{
		"a file and the environment":       {func(f, _, e *secrets.Source) *secrets.Source { f.Env = e.Env; return f }, "both MVM_MASTER_KEY and key_file"},
		"a file and a credential":          {func(f, c, _ *secrets.Source) *secrets.Source { c.FileGiven = true; return c }, "both key_credential and key_file"},
		"a credential and the environment": {func(_, c, e *secrets.Source) *secrets.Source { c.Env = e.Env; return c }, "both MVM_MASTER_KEY and key_credential"},
		"no credentials":                   {func(_, c, _ *secrets.Source) *secrets.Source { c.CredentialDir = ""; return c }, "systemd gave this process no credentials"},
		"another credential":               {func(_, c, _ *secrets.Source) *secrets.Source { c.Credential = "x"; return c }, "no credential x"},
		"a credential elsewhere":           {func(_, c, _ *secrets.Source) *secrets.Source { c.Credential = "../master.key"; return c }, "has no credential"},
		"a relative folder":                {func(_, c, _ *secrets.Source) *secrets.Source { c.CredentialDir = "creds"; return c }, "has no credential"},
		"an open credential": {func(_, c, _ *secrets.Source) *secrets.Source {
			_ = os.Chmod(filepath.Join(c.CredentialDir, c.Credential), 0o444)
			return c
		}, "gives other users access"},
		"a short credential": {func(_, c, _ *secrets.Source) *secrets.Source {
			_ = os.WriteFile(filepath.Join(c.CredentialDir, "short"), []byte("KKKK"), 0o400)
			c.Credential = "short"
			return c
		}, "32 bytes"},
		"no base64":   {func(_, _, e *secrets.Source) *secrets.Source { e.Env = "KKKK!"; return e }, "is not base64 of 32 bytes"},
		"short":       {func(_, _, e *secrets.Source) *secrets.Source { e.Env = "S0tLSw=="; return e }, "is not base64 of 32 bytes"},
		"in the data": {func(f, _, _ *secrets.Source) *secrets.Source { f.DataDir = filepath.Dir(f.File); return f }, "in the data directory"},
		"in the data by a symlink": {func(f, _, _ *secrets.Source) *secrets.Source {
			dir := filepath.Dir(f.File)
			_ = os.Mkdir(f.DataDir, 0o700)
			_ = os.Symlink(f.DataDir, filepath.Join(dir, "link"))
			f.File = filepath.Join(dir, "link", "keys", "master.key")
			return f
		}, "in the data directory"},
	} {
		t.Run(name, func(t *testing.T) {
			file, credential, env := place(t)
			s := c.spoil(&file, &credential, &env)
			for what, err := range map[string]error{"load": loadOf(s), "check": s.Check()} {
				if err == nil || !strings.Contains(err.Error(), c.want) || mvm.KindOf(err) == mvm.KindInternal {
					t.Errorf("%s: got %v, want a refusal that says %q", what, err, c.want)
				}
				if err != nil && (strings.Contains(err.Error(), "KKKK") || strings.Contains(err.Error(), "S0tL")) {
					t.Errorf("%s: the error holds the key: %v", what, err)
				}
			}
			if _, err := os.Stat(filepath.Join(file.DataDir, "keys")); err == nil {
				t.Error("a refused source made something")
			}
		})
	}
}

func loadOf(s *secrets.Source) error {
	_, err := s.Load()
	return err
}

func TestACheckMakesNoKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "master.key")
	s := secrets.Source{File: path}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("the check made a folder")
	}
}

func TestTheKeyIsTakenOutOfTheEnvironment(t *testing.T) {
	t.Setenv("MVM_MASTER_KEY", "a key")
	if got := secrets.TakeEnv(); got != "a key" {
		t.Errorf("got %q", got)
	}
	if v, ok := os.LookupEnv("MVM_MASTER_KEY"); ok {
		t.Errorf("%q is still there", v)
	}
}
