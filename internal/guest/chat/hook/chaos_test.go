package hook_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guest/chat/posted"
	"mvm/internal/guestproto"
)

// gatewayEnv makes the test binary a gateway with the folder that it names: its port is in
// the file "port", and the worker's address in "worker".
const gatewayEnv = "MVM_HOOK_TEST_GATEWAY"

func chaosChannel() guestproto.Channel { return channel(mvm.ChannelHook, mvm.KeyFromChat, "bob") }

// outside are the workers of a gateway that is a process of its own.
type outside struct{ addr string }

func (o outside) Reach(_ context.Context, _, _, key string) (chat.Lease, error) {
	return lease{o.addr, key}, nil
}
func (o outside) Preflight(context.Context, string, string) (guestproto.PreflightAck, error) {
	return guestproto.PreflightAck{Safe: true}, nil
}
func (outside) State(context.Context, string, string) (mvm.State, int, error) {
	return mvm.StateRunning, 1, nil
}

func (o outside) Sync(context.Context, string, string, int) error { return nil }
func (o outside) Record(string, guestproto.MessageEvent)          {}

func serveUntilKilled(dir string) int {
	worker, err := os.ReadFile(filepath.Join(dir, "worker"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w, log := outside{string(worker)}, slog.New(slog.DiscardHandler)
	shelf := &hook.Shelf{Path: filepath.Join(dir, "mvm", "inbox.db"), Ready: func() error { return nil }, Log: log}
	a := hook.Opener(shelf)(chat.AdapterOptions{Channel: chaosChannel(), Workers: w, Recorder: w, Log: log, Limits: quick(), Changed: func() {}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(dir, "new"), []byte(l.Addr().String()), 0o600), os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "port")))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, h := a.Webhook()
	fmt.Fprintln(os.Stderr, http.Serve(l, h)) //nolint:gosec // of a test
	return 1
}

// TestKilledGateway kills the gateway's process at any moment while a platform sends again
// what was not answered 200: every message arrives, the first arrivals of a chat in order,
// and one that comes twice is the same message.
func TestKilledGateway(t *testing.T) {
	const chats, each = 8, 30
	f := newFleet(t)
	f.answer = func(got) (int, http.Header) { // a worker that fails now and then
		switch rand.IntN(8) {
		case 0:
			return 503, http.Header{"Retry-After": {"0"}}
		case 1:
			return 500, nil
		}
		return 200, nil
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "worker"), []byte(f.server.Listener.Addr().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var senders sync.WaitGroup
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for n := range chats {
		senders.Go(func() {
			for i := range each {
				m := text(fmt.Sprint("c", n), fmt.Sprintf("%03d", i))
				for !postOnce(ctx, client, dir, fmt.Sprintf("%d-%03d", n, i), m) && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); senders.Wait() }()
	kills := 0
	for sending := true; sending; {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), gatewayEnv+"="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until := len(f.bodies()) + 1 + rand.IntN(25)
		f.wait("arrivals", func() bool {
			select {
			case <-done:
				sending = false
			default:
			}
			return !sending || len(f.bodies()) >= until
		})
		if sending {
			time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond) // anywhere in what it does
			kills++
		} else {
			f.wait("all are delivered", func() bool { return len(firsts(f.bodies())) == chats*each })
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if ctx.Err() != nil {
		t.Fatalf("after %d kills not all was accepted", kills)
	}
	last := map[string]string{}
	for _, b := range firsts(f.bodies()) {
		chat, _, _ := strings.Cut(b, `","from`)
		if b <= last[chat] {
			t.Errorf("%s arrived after %s", b, last[chat])
		}
		last[chat] = b
	}
	t.Logf("%d messages, %d kills, %d arrivals", chats*each, kills, len(f.bodies()))
}

// firsts are the first arrivals of each.
func firsts(all []string) (out []string) {
	seen := map[string]bool{}
	for _, b := range all {
		if !seen[b] {
			seen[b] = true
			out = append(out, b)
		}
	}
	return out
}

func postOnce(ctx context.Context, client *http.Client, dir, id, body string) bool {
	addr, err := os.ReadFile(filepath.Join(dir, "port"))
	if err != nil {
		return false
	}
	c := chaosChannel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+string(addr)+c.HookPath(), strings.NewReader(body))
	if err != nil {
		return false
	}
	req.Header = posted.Sign(c, secret, id, []byte(body), time.Now())
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
