package manifest_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mvm"

	"mvm/internal/manifest"
)

const secretLine = 3 // of the manifests that deploySecret writes

// deploySecret reads a manifest in dir with one secret of the path.
func deploySecret(t *testing.T, dir, path string, opts manifest.Options) (string, error) {
	t.Helper()
	m := write(t, filepath.Join(dir, "m.toml"), "tenant.id = \"a\"\n[secrets]\ns = { file = '"+path+"' }\n")
	d, _, err := manifest.ReadDeployment(m, opts)
	return string(d.Secrets["s"]), err
}

func TestSecretFileContent(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"no newline":           {"key", "key"},
		"one newline":          {"key\n", "key"},
		"two newlines":         {"key\n\n", "key\n"},
		"newline of Windows":   {"key\r\n", "key"},
		"carriage return only": {"key\r", "key\r"},
		"spaces stay":          {" key \n", " key "},
		"bytes":                {"\x00\xff\n", "\x00\xff"},
		"the largest":          {strings.Repeat("x", mvm.MaxSecretBytes), strings.Repeat("x", mvm.MaxSecretBytes)},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "secrets", "s.key"), c.content)
		for _, path := range []string{"secrets/s.key", "./secrets/s.key", "secrets/../secrets/s.key"} {
			if got, err := deploySecret(t, dir, path, manifest.Options{}); err != nil || got != c.want {
				t.Errorf("%s: got %.40q %v, want %.40q", name, got, err, c.want)
			}
		}
	}
}

func TestSecretFilesThatAreRefused(t *testing.T) {
	const marker = "OUTSIDE-c7a1"
	link := os.Symlink
	for name, c := range map[string]struct {
		make func(dir, outside string) error // outside is a file with a secret
		path string                          // DIR and OUTSIDE stand for the paths
		want string
	}{
		"missing":                {nil, "s.key", "no such file"},
		"empty path":             {nil, "", "not the path of a file"},
		"the folder":             {nil, ".", "not a regular file"},
		"up and out":             {nil, "../../etc/shadow", "outside the manifest's folder"},
		"out and back":           {nil, "x/../../m/s.key", "outside the manifest's folder"},
		"absolute":               {nil, "OUTSIDE", "absolute path"},
		"absolute, own folder":   {nil, "DIR/m.toml", "absolute path"},
		"symlink out":            {func(d, o string) error { return link(o, d+"/s.key") }, "s.key", "is a symlink"},
		"symlink within":         {func(d, o string) error { return link("m.toml", d+"/s.key") }, "s.key", "is a symlink"},
		"through a symlink out":  {func(d, o string) error { return link(filepath.Dir(o), d+"/sub") }, "sub/o.key", "cannot be read"},
		"through a relative one": {func(d, o string) error { return link("../..", d+"/sub") }, "sub/etc/shadow", "cannot be read"},
		"fifo":                   {func(d, o string) error { return syscall.Mkfifo(d+"/s.key", 0o600) }, "s.key", "not a regular file"},
		"folder":                 {func(d, o string) error { return os.Mkdir(d+"/s.key", 0o700) }, "s.key", "not a regular file"},
		"hard link":              {func(d, o string) error { return os.Link(o, d+"/s.key") }, "s.key", "more than one hard link"},
		"empty":                  {func(d, o string) error { return os.WriteFile(d+"/s.key", nil, 0o600) }, "s.key", "is empty"},
		"only a newline":         {func(d, o string) error { return os.WriteFile(d+"/s.key", []byte("\n"), 0o600) }, "s.key", "is empty"},
		"too large": {func(d, o string) error {
			return os.WriteFile(d+"/s.key", make([]byte, mvm.MaxSecretBytes+1), 0o600)
		}, "s.key", "more than 65536 bytes"},
		"too large, never an end":   {func(d, o string) error { return link("/dev/zero", d+"/s.key") }, "s.key", "is a symlink"},
		"through what is no folder": {nil, "m.toml/s.key", "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			outside := write(t, filepath.Join(t.TempDir(), "o.key"), marker)
			if c.make != nil {
				if err := c.make(dir, outside); err != nil {
					t.Fatal(err)
				}
			}
			path := strings.NewReplacer("DIR", dir, "OUTSIDE", outside).Replace(c.path)
			got, err := deploySecret(t, dir, path, manifest.Options{})
			ps := problems(t, err)
			if got != "" || len(ps) != 1 || !strings.HasPrefix(ps[0], "3:7: secrets.s.file: ") || !strings.Contains(ps[0], c.want) {
				t.Fatalf("got %q %q, want a problem in line %d that says %q", got, ps, secretLine, c.want)
			}
			if strings.Contains(err.Error(), marker) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
}

func TestUnreadableSecretFile(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root can read every file")
	}
	dir := t.TempDir()
	if err := os.Chmod(write(t, filepath.Join(dir, "s.key"), "x"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := deploySecret(t, dir, "s.key", manifest.Options{}); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v, want it to say why", err)
	}
}

func TestSecretDirsAllowAbsolutePaths(t *testing.T) {
	allowed, dir := t.TempDir(), t.TempDir()
	file := write(t, filepath.Join(allowed, "sub", "s.key"), "value")
	opts := manifest.Options{SecretDirs: []string{filepath.Join(allowed, "other"), allowed}}
	if got, err := deploySecret(t, dir, file, opts); err != nil || got != "value" {
		t.Errorf("got %q %v, want value", got, err)
	}
	outside := write(t, filepath.Join(t.TempDir(), "o.key"), "x")
	for _, path := range []string{outside, allowed + "/../" + filepath.Base(filepath.Dir(outside)) + "/o.key", allowed + "-not/s.key"} {
		if _, err := deploySecret(t, dir, path, opts); err == nil || !strings.Contains(err.Error(), "absolute path") {
			t.Errorf("%s: got %v, want a refusal", path, err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(allowed, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := deploySecret(t, dir, filepath.Join(allowed, "link"), opts); err == nil {
		t.Error("a symlink out of the folder was followed")
	}
}

func TestSecretsTogetherAreBounded(t *testing.T) {
	dir := t.TempDir()
	text := "tenant.id = \"a\"\n[secrets]\n"
	for _, name := range []string{"a", "b", "c"} {
		write(t, filepath.Join(dir, name), strings.Repeat("x", 60<<10))
		text += name + " = { file = \"" + name + "\" }\n"
	}
	_, _, err := manifest.ReadDeployment(write(t, filepath.Join(dir, "m.toml"), text), manifest.Options{})
	if got := problems(t, err); len(got) != 1 || !strings.HasPrefix(got[0], "2:2: secrets: secrets have") {
		t.Errorf("got %q, want one problem with the table", got)
	}
}
