package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mvm/test/stubmodel"
)

// demo is one run.
type demo struct {
	out      io.Writer
	began    time.Time
	mvm      string
	shown    string // how a user runs it
	dir      string
	tenant   string
	stubPort int

	token   string
	url     string // of the chat endpoint
	stub    *http.Server
	process string // of OpenClaw in the guest: pid and start time
}

func (d *demo) worker() string { return d.tenant + "/workers@" + d.tenant }

// command runs mvm, showing it, and returns what it printed.
func (d *demo) command(ctx context.Context, args ...string) ([]byte, error) {
	fmt.Fprintf(d.out, "   $ mvm %s\n", strings.Join(args, " "))
	return d.quiet(ctx, args...)
}

func (d *demo) quiet(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.mvm, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("mvm %s: %w", strings.Join(args, " "), err)
	}
	return out, err
}

func (d *demo) json(ctx context.Context, v any, args ...string) error {
	out, err := d.quiet(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, v)
}

func (d *demo) makeTenant(ctx context.Context) error {
	config, err := d.writeConfig()
	if err != nil {
		return err
	}
	if _, err := d.command(ctx, "new", "openclaw", d.tenant, "--config", config); err != nil {
		return err
	}
	if err := d.startStub(ctx); err != nil {
		return err
	}
	var c struct {
		Endpoints []struct{ URL string }
	}
	if err := d.json(ctx, &c, "connect", d.tenant); err != nil {
		return err
	}
	if len(c.Endpoints) == 0 {
		return errors.New("the tenant has no published endpoint")
	}
	d.url = strings.TrimSuffix(c.Endpoints[0].URL, "/") + "/v1/chat/completions"
	return nil
}

// writeConfig writes the template's config and its secrets, once.
func (d *demo) writeConfig() (string, error) {
	if err := os.MkdirAll(filepath.Join(d.dir, "secrets"), 0o700); err != nil {
		return "", err
	}
	token, err := d.keptSecret("gateway_token")
	if err != nil {
		return "", err
	}
	d.token = token
	cfg := "[secrets]\ngateway_token = { file = \"./secrets/gateway_token\" }\n"
	overrides := ""
	if key := os.Getenv("ANTHROPIC_API_KEY"); key != "" {
		if err := os.WriteFile(d.secretPath("anthropic_key"), []byte(key), 0o600); err != nil {
			return "", err
		}
		cfg += "anthropic_key = { file = \"./secrets/anthropic_key\" }\n"
	} else {
		if _, err := d.keptSecret("model_key"); err != nil {
			return "", err
		}
		cfg += "model_key = { file = \"./secrets/model_key\" }\n"
		overrides = fmt.Sprintf("\n[overrides]\nhost_services = [%d]\n\n[overrides.workers.env]\n"+
			"OPENCLAW_MODEL_BASE_URL = \"http://host.mvm.internal:%d/v1\"\n", d.stubPort, d.stubPort)
	}
	path := filepath.Join(d.dir, d.tenant+".toml")
	return path, os.WriteFile(path, []byte(cfg+overrides), 0o600)
}

func (d *demo) secretPath(name string) string { return filepath.Join(d.dir, "secrets", name) }

func (d *demo) keptSecret(name string) (string, error) {
	if b, err := os.ReadFile(d.secretPath(name)); err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	b := make([]byte, 24)
	rand.Read(b)
	s := base64.RawURLEncoding.EncodeToString(b)
	return s, os.WriteFile(d.secretPath(name), []byte(s), 0o600)
}

// startStub serves the stub model on the tenant's address of the host, unless there
// is a real key.
func (d *demo) startStub(ctx context.Context) error {
	if os.Getenv("ANTHROPIC_API_KEY") != "" {
		return nil
	}
	var t struct{ Subnet netip.Prefix }
	if err := d.json(ctx, &t, "tenant", "info", d.tenant); err != nil {
		return err
	}
	host := t.Subnet.Addr().Next()
	ln, err := net.Listen("tcp", net.JoinHostPort(host.String(), strconv.Itoa(d.stubPort)))
	if err != nil {
		return fmt.Errorf("serve stub model: %w", err)
	}
	d.stub = &http.Server{Handler: &stubmodel.Server{}, ReadHeaderTimeout: 10 * time.Second}
	go d.stub.Serve(ln) //nolint:errcheck // it ends with Shutdown
	fmt.Fprintf(d.out, "   (no ANTHROPIC_API_KEY: a stub model answers at %s)\n", ln.Addr())
	return nil
}

func (d *demo) stopStub() error {
	if d.stub == nil {
		return nil
	}
	return d.stub.Close()
}

// chat sends one message and returns the answer.
func (d *demo) chat(ctx context.Context, text string) (string, error) {
	body, err := json.Marshal(map[string]any{"model": "openclaw", "messages": []map[string]string{{"role": "user", "content": text}}})
	if err != nil {
		return "", err
	}
	began := time.Now()
	for {
		answer, retry, err := d.post(ctx, body)
		if err == nil {
			fmt.Fprintf(d.out, "   you: %s\n   openclaw: %s\n   answered after %s\n", text, answer, time.Since(began).Round(time.Millisecond))
			return answer, nil
		}
		if retry == 0 || time.Since(began) > 20*time.Minute {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(retry):
		}
	}
}

// post asks once. retry is what the gateway says when it could not have the worker
// awake in time (the first boot takes minutes without KVM).
func (d *demo) post(ctx context.Context, body []byte) (answer string, retry time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Mvm-User", d.tenant)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", 0, err
	}
	if resp.StatusCode != http.StatusOK {
		secs, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return "", time.Duration(secs) * time.Second, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(b))
	}
	var c struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.Unmarshal(b, &c); err != nil || len(c.Choices) == 0 {
		return "", 0, fmt.Errorf("unexpected answer %q", b)
	}
	return c.Choices[0].Message.Content, 0, nil
}

func (d *demo) firstChat(ctx context.Context) (err error) {
	if _, err := d.chat(ctx, "hello from the demo"); err != nil {
		return err
	}
	d.process, err = d.openclaw(ctx)
	return err
}

// openclaw identifies the OpenClaw process in the guest by pid and start time.
func (d *demo) openclaw(ctx context.Context) (string, error) {
	script := `for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline 2>/dev/null)" in *launch.mjs*|*openclaw*gateway*) ` +
		`set -- $(cat $p/stat); echo "pid $1 started ${22}"; exit;; esac; done; exit 1`
	out, err := d.quiet(ctx, "exec", d.worker(), "--", "/bin/bash", "-c", script)
	return strings.TrimSpace(string(out)), err
}

type stats struct {
	PID          int   `json:"pid"`
	RSSBytes     int64 `json:"rss_bytes"`
	SleeperBytes int64 `json:"sleeper_bytes"`
}

// stats measures the worker.
func (d *demo) stats(ctx context.Context) (stats, error) {
	var all []stats
	if err := d.json(ctx, &all, "instance", "stats", d.worker()); err != nil || len(all) != 1 {
		return stats{}, errors.Join(err, fmt.Errorf("%d instances were measured, not one", len(all)))
	}
	return all[0], nil
}

func (d *demo) sleep(ctx context.Context) error {
	before, err := d.stats(ctx)
	if err != nil {
		return err
	}
	if _, err := d.command(ctx, "instance", "sleep", d.worker()); err != nil {
		return err
	}
	after, err := d.stats(ctx)
	if err != nil {
		return err
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(before.PID)); err == nil || after.PID != 0 {
		return fmt.Errorf("its VMM, process %d, is still there", before.PID)
	}
	fmt.Fprintf(d.out, "   process %d with %d MiB is gone; %d MiB on disk\n", before.PID, before.RSSBytes>>20, after.SleeperBytes>>20)
	return nil
}

func (d *demo) secondChat(ctx context.Context) error {
	_, err := d.chat(ctx, "are you still there?")
	return err
}

func (d *demo) sameProcess(ctx context.Context) error {
	now, err := d.openclaw(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "   before: %s; after: %s\n", d.process, now)
	if now != d.process {
		return errDifferent
	}
	out, err := d.command(ctx, "why", d.worker())
	fmt.Fprintf(d.out, "   %s\n", strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n   "))
	return err
}

func (d *demo) goodbye() {
	fmt.Fprintf(d.out, "\nAll of it took %s. The assistant is still there.\n", time.Since(d.began).Round(time.Second))
	if d.stub != nil {
		fmt.Fprintln(d.out, "The stub model ends with this demo: run it again, or with ANTHROPIC_API_KEY, for more answers.")
	}
	fmt.Fprintf(d.out, `  talk to it:   curl %s -H 'Authorization: Bearer %s' -H 'X-Mvm-User: %s' \
                  -H 'Content-Type: application/json' -d '{"model":"openclaw","messages":[{"role":"user","content":"hi"}]}'
  look at it:   %s ps; %s events; %s logs %s
  remove it:    %s tenant destroy %s --yes; rm -r %s
  the agent goes on in the background; its pid is in: %s node info
`, d.url, d.token, d.tenant, d.shown, d.shown, d.shown, d.worker(), d.shown, d.tenant, d.dir, d.shown)
}
