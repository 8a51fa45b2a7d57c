package trust_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/trust"
)

func generate(t *testing.T, dir, name string) trust.Key {
	t.Helper()
	k, err := trust.Generate(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAKeyThatWasMadeSignsAndIsTrusted(t *testing.T) {
	dir := t.TempDir()
	made := generate(t, dir, "fleet")
	generate(t, dir, "another")
	private, err := trust.LoadPrivate(filepath.Join(dir, "fleet"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := trust.Load(dir)
	if err != nil || len(keys) != 2 {
		t.Fatalf("got %v, %v", keys, err)
	}
	k := keys[1]
	if k.ID != made.ID || k.File != filepath.Join(dir, "fleet.pub") || k.ID != desired.KeyID(k.Public) {
		t.Errorf("got %+v, want %+v", k, made)
	}
	if !ed25519.Verify(k.Public, []byte("x"), ed25519.Sign(private, []byte("x"))) {
		t.Error("the two are not one key")
	}
	for name, mode := range map[string]fs.FileMode{"fleet": 0o600, "fleet.pub": 0o644} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: got %v, %v; want mode %v", name, st.Mode(), err, mode)
		}
	}
}

func TestAKeyThatIsThereIsKept(t *testing.T) {
	dir := t.TempDir()
	generate(t, dir, "k")
	before, _ := os.ReadFile(filepath.Join(dir, "k"))
	if _, err := trust.Generate(filepath.Join(dir, "k")); !mvm.IsKind(err, mvm.KindExists) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "k")); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Generate(filepath.Join(dir, "k")); !mvm.IsKind(err, mvm.KindExists) {
		t.Errorf("got %v where the public key is there", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "k")); !errors.Is(err, fs.ErrNotExist) || len(before) == 0 {
		t.Error("a private key was made beside another's public one")
	}
}

// The key of RFC 8410, section 10.3, as OpenSSL writes it.
const rfc8410 = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n"

func TestAKeyOfOpenSSL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.pem")
	if err := os.WriteFile(path, []byte(rfc8410), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := trust.LoadPrivate(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := base64.StdEncoding.EncodeToString(k.Public().(ed25519.PublicKey)); got != "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=" {
		t.Errorf("got public key %s", got)
	}
}

func TestTrustedKeysThatAreRefused(t *testing.T) {
	line := base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"
	write := func(text string, mode fs.FileMode) func(string) error {
		return func(path string) error {
			return errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode))
		}
	}
	for name, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"writable for others": {write(line, 0o646), "gives other users access"},
		"writable for group":  {write(line, 0o664), "gives other users access"},
		"not base64":          {write("ssh-ed25519 AAAA", 0o644), "not one line of base64"},
		"a short key":         {write("AAAA\n", 0o644), "not one line of base64"},
		"two keys":            {write(line+line, 0o644), "not one line of base64"},
		"empty":               {write("", 0o644), "not one line of base64"},
		"large":               {write(strings.Repeat("A", 5000), 0o644), "more than 4096 bytes"},
		"a folder":            {func(p string) error { return os.Mkdir(p, 0o755) }, "not a regular file"},
		"a symlink": {func(p string) error {
			return errors.Join(write(line, 0o644)(p+".real"), os.Symlink(p+".real", p))
		}, "symlink"},
		"there twice":                  {func(p string) error { return errors.Join(write(line, 0o644)(p), write(line, 0o644)(p+".pub")) }, "it is the same key as"},
		"in a folder others can write": {func(p string) error { return errors.Join(write(line, 0o644)(p), os.Chmod(filepath.Dir(p), 0o777)) }, "write to its folder"},
		"too many": {func(p string) error {
			for i := range 65 {
				if err := write(line, 0o644)(fmt.Sprintf("%s-%d.pub", p, i)); err != nil {
					return err
				}
			}
			return nil
		}, "more than 64 keys"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			generate(t, dir, "good") // which does not help
			if err := c.make(filepath.Join(dir, "k.pub")); err != nil {
				t.Fatal(err)
			}
			keys, err := trust.Load(dir)
			if !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), c.want) || keys != nil {
				t.Errorf("got %v, %v; want a refusal that says %q", keys, err, c.want)
			}
		})
	}
}

func TestFoldersWithoutKeys(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "README"), []byte("not a key"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "none")} {
		if keys, err := trust.Load(d); err != nil || len(keys) != 0 {
			t.Errorf("%s: got %v, %v", d, keys, err)
		}
	}
}

func TestSigningKeysThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	generate(t, dir, "good")
	good, err := os.ReadFile(filepath.Join(dir, "good"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		mode fs.FileMode
		kind mvm.Kind
	}{
		"readable for others": {good, 0o644, mvm.KindPolicy},
		"no PEM":              {[]byte("secret-in-clear"), 0o600, mvm.KindInvalid},
		"something after it":  {append(good, "more"...), 0o600, mvm.KindInvalid},
		"another kind":        {[]byte("-----BEGIN PRIVATE KEY-----\nc2VjcmV0LWluLWNsZWFy\n-----END PRIVATE KEY-----\n"), 0o600, mvm.KindInvalid},
	} {
		path := filepath.Join(dir, "k")
		if err := errors.Join(os.WriteFile(path, c.data, 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		_, err := trust.LoadPrivate(path)
		if !mvm.IsKind(err, c.kind) || strings.Contains(err.Error(), "secret-in-clear") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
