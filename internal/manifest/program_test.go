package manifest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/manifest"
)

const mvmfile = `name = "app"
from = "builtin:minimal"
binary = "bin/app"
cmd = "app --name 'two words' a\\ b"
port = 8080
ready = "/healthz"
user = "1000:1000"
workdir = "/srv"
stop_signal = "INT"
[env]
MODE = "fast"
[[files]]
src = "/etc/hosts"
dst = "/etc/app/hosts"
mode = "0640"
[[files]]
src = "static"
dst = "/srv/static"
`

// TestReadProgram: a file says the same as flags do, and its paths are relative to it.
func TestReadProgram(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "Mvmfile")
	if err := os.WriteFile(file, []byte(mvmfile), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := manifest.ReadProgram(file)
	if err != nil {
		t.Fatal(err)
	}
	want := manifest.Program{Name: "app", From: "builtin:minimal", Binary: filepath.Join(dir, "bin/app"), Command: []string{"app", "--name", "two words", "a b"},
		Port: 8080, Ready: "/healthz", User: "1000:1000", Dir: "/srv", Stop: "INT", Env: map[string]string{"MODE": "fast"},
		Files: []manifest.ProgramFile{{Source: "/etc/hosts", Path: "/etc/app/hosts", Mode: 0o640}, {Source: filepath.Join(dir, "static"), Path: "/srv/static"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the program is not what the file says (-want +got):\n%s", diff)
	}
}

// TestProgramRefuses: what is wrong with the file is said with line, column and key.
func TestProgramRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"unknown key":       {"binray = \"app\"", "m.toml:1:1: binray: unknown key (did you mean binary?)"},
		"unknown file key":  {"[[files]]\nsrc = \"a\"\ndst = \"/a\"\nperm = \"0644\"", "files[0].perm: unknown key"},
		"wrong type":        {"port = \"80\"", "port: is a string, must be an integer"},
		"port out of range": {"port = 70000", "70000 is not in 1..65535"},
		"shell":             {"cmd = \"app | tee log\"", "only a shell understands"},
		"variable":          {"cmd = \"app $HOME\"", "only a shell understands"},
		"open quote":        {"cmd = \"app 'x\"", "not closed"},
		"empty command":     {"cmd = []", "has 0 words"},
		"words":             {"cmd = [\"app\", 1]", "must be an array of strings"},
		"relative path":     {"[[files]]\nsrc = \"a\"\ndst = \"a\"", "not an absolute path in the guest"},
		"no destination":    {"[[files]]\nsrc = \"a\"", "dst is missing"},
		"mode":              {"[[files]]\nsrc = \"a\"\ndst = \"/a\"\nmode = \"4755\"", "not permissions in octal"},
		"ready":             {"ready = \"healthz\"", "not the path of an HTTP request"},
		"environment":       {"[env]\nA = 1", "env.A: is an integer, must be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.ParseProgram("m.toml", []byte(tt.text))
			if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
