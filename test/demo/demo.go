package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mvm/test/botapi"
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
	botPort  int
	chats    bool // the bot is shown, too

	config   string // the file
	token    string
	url      string // of the chat endpoint
	stub     bool   // no real model answers
	servers  []*server
	bot      *botapi.Server
	botToken string
	turn     time.Duration // that the bot's last answer took
	process  string        // of OpenClaw in the guest: pid and start time
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
	if err := d.writeConfig(); err != nil {
		return err
	}
	made := make(chan error, 1)
	served, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		_, err := d.command(ctx, "new", "openclaw", d.tenant, "--config", d.config)
		if err != nil {
			cancel(err)
		}
		made <- err
	}()
	err := d.startServers(served) // the assistant looks for its bot when it starts
	if failed := <-made; failed != nil || err != nil {
		return cmp.Or(failed, err)
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

// writeConfig writes the template's config and its secrets.
func (d *demo) writeConfig() error {
	if err := os.MkdirAll(filepath.Join(d.dir, "secrets"), 0o700); err != nil {
		return err
	}
	token, err := d.keptSecret("gateway_token", "")
	if err != nil {
		return err
	}
	d.token = token
	cfg := "[secrets]\ngateway_token = { file = \"./secrets/gateway_token\" }\n"
	overrides := fmt.Sprintf("\n[overrides]\nhost_services = [%d, %d]\n", d.stubPort, d.botPort)
	if key := os.Getenv("ANTHROPIC_API_KEY"); key != "" {
		if err := os.WriteFile(d.secretPath("anthropic_key"), []byte(key), 0o600); err != nil {
			return err
		}
		cfg += "anthropic_key = { file = \"./secrets/anthropic_key\" }\n"
	} else {
		if _, err := d.keptSecret("model_key", ""); err != nil {
			return err
		}
		cfg += "model_key = { file = \"./secrets/model_key\" }\n"
		overrides += fmt.Sprintf("\n[overrides.workers.env]\nOPENCLAW_MODEL_BASE_URL = \"http://host.mvm.internal:%d/v1\"\n", d.stubPort)
	}
	if d.botToken, err = d.keptSecret("telegram_token", "123456789:"); err != nil {
		return err
	}
	cfg += d.botConfig()
	d.config = filepath.Join(d.dir, d.tenant+".toml")
	return os.WriteFile(d.config, []byte(cfg+overrides), 0o600)
}

func (d *demo) secretPath(name string) string { return filepath.Join(d.dir, "secrets", name) }

// keptSecret is a random secret, which begins with the prefix and is made once.
func (d *demo) keptSecret(name, prefix string) (string, error) {
	if b, err := os.ReadFile(d.secretPath(name)); err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	b := make([]byte, 24)
	rand.Read(b)
	s := prefix + base64.RawURLEncoding.EncodeToString(b)
	return s, os.WriteFile(d.secretPath(name), []byte(s), 0o600)
}

// startServers serves the Bot API, and the stub model unless there is a real key.
func (d *demo) startServers(ctx context.Context) error {
	host, err := d.hostAddr(ctx)
	if err != nil {
		return err
	}
	d.bot = botapi.New(d.botToken, nil)
	at, err := d.serve(host, d.botPort, d.bot)
	if err != nil {
		return fmt.Errorf("serve the Bot API: %w", err)
	}
	fmt.Fprintf(d.out, "   (a stand-in of Telegram's Bot API answers at %s)\n", at)
	if os.Getenv("ANTHROPIC_API_KEY") != "" {
		return nil
	}
	d.stub = true
	if at, err = d.serve(host, d.stubPort, &stubmodel.Server{Reminders: true}); err != nil {
		return fmt.Errorf("serve the stub model: %w", err)
	}
	fmt.Fprintf(d.out, "   (no ANTHROPIC_API_KEY: a stub model answers at %s)\n", at)
	return nil
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
	if err := d.sleepOnceIdle(ctx); err != nil {
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

// sleepOnceIdle puts the worker to sleep. What follows a turn keeps it awake for a moment, and
// on a slow host for longer.
func (d *demo) sleepOnceIdle(ctx context.Context) error {
	for began := time.Now(); ; {
		_, err := d.command(ctx, "instance", "sleep", d.worker())
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitRefused || time.Since(began) > botPatience {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// exitRefused is the exit code of what the instance's state does not allow.
const exitRefused = 4

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
	return d.why(ctx)
}

// why shows what mvm says of the worker.
func (d *demo) why(ctx context.Context, flags ...string) error {
	out, err := d.command(ctx, append([]string{"why", d.worker()}, flags...)...)
	fmt.Fprintf(d.out, "   %s\n", strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n   "))
	return err
}

func (d *demo) goodbye() {
	fmt.Fprintf(d.out, "\nAll of it took %s. The assistant is still there.\n", time.Since(d.began).Round(time.Second))
	if d.stub {
		fmt.Fprintln(d.out, "The stub model ends with this demo: run it again, or with ANTHROPIC_API_KEY, for more answers.")
	}
	fmt.Fprintln(d.out, "So does its bot's Bot API. A bot of your own: docs/chat.md.")
	fmt.Fprintf(d.out, `  talk to it:   curl %s -H 'Authorization: Bearer %s' -H 'X-Mvm-User: %s' \
                  -H 'Content-Type: application/json' -d '{"model":"openclaw","messages":[{"role":"user","content":"hi"}]}'
  look at it:   %s ps; %s events; %s logs %s
  remove it:    %s tenant destroy %s --yes; rm -r %s
  the agent goes on in the background; its pid is in: %s node info
`, d.url, d.token, d.tenant, d.shown, d.shown, d.shown, d.worker(), d.shown, d.tenant, d.dir, d.shown)
}
