package api_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
)

// hangUp calls do with a context that ends once the service was asked.
func hangUp(t *testing.T, svc *script, do func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctxOf(t))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	eventually(t, func() error {
		if svc.last() == "" {
			return errors.New("the service was not asked")
		}
		return nil
	})
	cancel()
	if err := <-done; !mvm.IsKind(err, mvm.KindCanceled) {
		t.Errorf("caller got %v, want canceled", err)
	}
}

var here = mvm.Address{Instance: "i-a3f7b2c1"}

func TestWorkForOneClientEndsWithIt(t *testing.T) {
	for name, do := range map[string]func(ctx context.Context, c *api.Client) error{
		"apply": func(ctx context.Context, c *api.Client) error {
			_, err := c.Apply(ctx, mvm.Deployment{}, mvm.ApplyOptions{}, nil)
			return err
		},
		"logs": func(ctx context.Context, c *api.Client) error {
			return c.Logs(ctx, here, mvm.LogsSpec{Follow: true}, func(mvm.LogLine) error { return nil })
		},
	} {
		svc := &script{block: make(chan struct{}), ended: make(chan error, 1)}
		c := start(t, svc)
		hangUp(t, svc, func(ctx context.Context) error { return do(ctx, c) })
		select {
		case <-svc.ended:
		case <-time.After(20 * time.Second):
			t.Errorf("%s goes on without its client", name)
		}
	}
}

func TestAnOperationGoesOnWithoutItsClient(t *testing.T) {
	svc := &script{block: make(chan struct{}), ended: make(chan error, 1)}
	c := start(t, svc)
	hangUp(t, svc, func(ctx context.Context) error {
		_, err := c.Operate(ctx, here, mvm.OpRequest{Op: mvm.OpSleep}, nil)
		return err
	})
	for range 20 { // the server has had the time to notice
		if _, err := c.Tenants(ctxOf(t)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-svc.ended:
		t.Errorf("the operation was ended: %v", err)
	default:
	}
	close(svc.block)
}

func TestCloseWaitsForOperationsAndThenEndsThem(t *testing.T) {
	svc := &script{block: make(chan struct{}), ended: make(chan error, 1)}
	socket, srv := serve(t, svc, api.ServerConfig{})
	c := dial(t, socket)
	done := make(chan error, 1)
	go func() {
		_, err := c.Operate(ctxOf(t), here, mvm.OpRequest{Op: mvm.OpSleep}, nil)
		done <- err
	}()
	eventually(t, func() error {
		if svc.last() == "" {
			return errors.New("not asked")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := srv.Close(ctx); err != nil {
		t.Error(err)
	}
	select {
	case <-svc.ended:
	default:
		t.Error("Close returned while an operation went on")
	}
	if err := <-done; !mvm.IsKind(err, mvm.KindUnavailable) || !errors.Is(err, mvm.ErrAway) {
		t.Errorf("caller got %v, want that the agent goes away", err)
	}
}

func TestCloseSendsWatchersAway(t *testing.T) {
	svc := &script{block: make(chan struct{})}
	socket, srv := serve(t, svc, api.ServerConfig{})
	c := dial(t, socket)
	done, first := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		done <- c.Logs(ctxOf(t), here, mvm.LogsSpec{Follow: true}, func(mvm.LogLine) error { first <- struct{}{}; return nil })
	}()
	<-first // the line came while the stream goes on
	if err := srv.Close(ctxOf(t)); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("the stream ended as if it was whole")
	}
}

func TestProgressDoesNotWaitForASlowReader(t *testing.T) {
	flood := &flooding{}
	socket, _ := serve(t, flood, api.ServerConfig{})
	block := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := dial(t, socket).Operate(ctxOf(t), here, mvm.OpRequest{Op: mvm.OpSleep}, func(mvm.Progress) { <-block })
		done <- err
	}()
	eventually(t, func() error {
		if flood.last() != "done" {
			return errors.New("progress holds the operation up")
		}
		return nil
	})
	close(block)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// flooding reports more progress than any buffer holds.
type flooding struct{ script }

func (f *flooding) Operate(_ context.Context, _ mvm.Address, _ mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error) {
	text := strings.Repeat("x", 4096)
	for range 2000 {
		progress(mvm.Progress{Text: text})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "done")
	return mvm.Instance{}, nil
}

// TestPeers runs this test's binary as other users, which ask at the socket.
func TestPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become other users")
	}
	const group, user = 54321, 54320
	for name, tc := range map[string]struct {
		cred syscall.Credential
		want string
	}{
		"nobody of ours":      {syscall.Credential{Uid: user, Gid: user}, "policy"},
		"primary group":       {syscall.Credential{Uid: user, Gid: group}, "ok"},
		"supplementary group": {syscall.Credential{Uid: user, Gid: user, Groups: []uint32{7, group, 9}}, "ok"},
		"many groups":         {syscall.Credential{Uid: user, Gid: user, Groups: append(manyGroups(), group)}, "ok"},
		"root":                {syscall.Credential{}, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			svc := &script{}
			socket, _ := serve(t, svc, api.ServerConfig{Group: group})
			open(t, socket)
			got := askAs(t, socket, &tc.cred)
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if tc.want == "ok" && tc.cred.Uid != 0 && !strings.Contains(svc.last(), fmt.Sprintf("by cli:uid-%d", user)) {
				t.Errorf("service was asked %q", svc.last())
			}
			if tc.want != "ok" && svc.last() != "" {
				t.Errorf("a stranger reached the service: %s", svc.last())
			}
		})
	}
}

func manyGroups() (gs []uint32) {
	for i := range uint32(200) {
		gs = append(gs, 60000+i)
	}
	return gs
}

// open lets everybody connect, so that only the peer check is left.
func open(t *testing.T, socket string) {
	t.Helper()
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(socket); strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func askAs(t *testing.T, socket string, cred *syscall.Credential) string {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(filepath.Dir(socket), "asker") // where strangers may run it
	if err := os.WriteFile(bin, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctxOf(t), bin)
	cmd.Env = []string{askerEnv + "=" + socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("run asker: %v\n%s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), "ANSWER=")
	answer, _, _ := strings.Cut(rest, "\n")
	return answer
}

// ask is what TestPeers runs as other users, through TestMain.
func ask(socket string) {
	c := api.Dial(socket)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	answer := "ok"
	if _, err := c.Tenants(ctx); err != nil {
		answer = string(mvm.KindOf(err))
	}
	fmt.Printf("ANSWER=%s\n", answer)
}
