package vm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/testenv"
)

const (
	ownProgram = "../../docs/own-program.md"
	imgOwn     = "own" // the program of docs/own-program.md
)

// ownScript is commands of docs/own-program.md, with the folders of this run.
func ownScript(t *testing.T, section string) string {
	t.Helper()
	return strings.NewReplacer("/srv/images/hello", filepath.Join(place(), "src", imgOwn), "/srv/images", filepath.Join(place(), "src"),
		"/srv/src/hello", filepath.Join(place(), "hello")).Replace(block(t, ownProgram, section, "sh", 0))
}

// runOwn runs them with this run's mvm.
func runOwn(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+place()+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the program of %s: %v\n%s", ownProgram, err, out)
	}
}

// prepareOwn makes the program and its image as docs/own-program.md says, and the program of
// the new version, which needs Go.
func prepareOwn(t *testing.T) {
	t.Helper()
	runOwn(t, "/", ownScript(t, "Write it")+ownScript(t, "Make an image of it"))
	build, _, _ := strings.Cut(ownScript(t, "Roll out a new version"), "mvm image build")
	runOwn(t, filepath.Join(place(), "hello"), "cp hello hello.1; "+build+"mv hello hello.2; mv hello.1 hello")
}

// TestOwnProgram: the program of docs/own-program.md is built and served as that page says,
// goes on where it was after a sleep, and becomes another version and the former one again
// while a user asks it all the time, without a failed request.
func TestOwnProgram(t *testing.T) {
	h := newHost(t, "qemu")
	_, text, _ := strings.Cut(ownScript(t, "Deploy it"), "\n")
	text, _, _ = strings.Cut(text, "\nEND\n")
	h.deploy(strings.ReplaceAll(text, "127.0.0.1:8080:8080", "127.0.0.1:0:8080"))
	p, err := h.client.Pool(h.ctx(), "hello", "gateways")
	must(t, err)
	web := p.Bound[0].String()
	for n := 1; n <= 2; n++ {
		want := fmt.Sprintf("hello ann, version 1, request %d since the start, visit %d\n", n, n)
		if got := h.page(web, "/", "x-mvm-user", "ann"); got != want {
			t.Errorf("request %d: %q, want %q", n, got, want)
		}
		h.do(h.only("workers").ID, mvm.OpSleep)
	}
	if b, err := os.ReadFile(ownProgram); err != nil || !strings.Contains(string(b), "hello ann, version 1, request 1 since the start, visit 1\n") {
		t.Errorf("%s does not show this answer: %v", ownProgram, err)
	}

	// Of another user, whose worker no person has changed.
	asked := h.asking(web, "ben")
	testenv.Eventually(t, patience, func() error { return asked.saw("version 1") })
	_, roll, _ := strings.Cut(ownScript(t, "Roll out a new version"), "mvm image build")
	roll, _, _ = strings.Cut(roll, "\n")
	runOwn(t, filepath.Join(place(), "hello"), "cp hello.2 hello; mvm image build"+roll)
	first, err := h.client.Pool(h.ctx(), "hello", "workers")
	must(t, err)
	b, err := h.client.BuildPool(h.ctx(), "hello", "workers", nil)
	must(t, err)
	if len(first.Builds) == 0 || b.Digest == first.Builds[0].Digest {
		t.Errorf("the new version has the image %s, as the one before", b.Digest)
	}
	testenv.Eventually(t, patience, func() error { return asked.saw("version 2") })
	back, err := h.client.RollbackPool(h.ctx(), "hello", "workers", "")
	must(t, err)
	if len(first.Builds) > 0 && back.ID != first.Builds[0].ID {
		t.Errorf("back to build %s, want %s", back.ID, first.Builds[0].ID)
	}
	asked.forget()
	testenv.Eventually(t, patience, func() error { return asked.saw("version 1") })
	asked.end()
}

// asking is a user who asks all the time.
type asking struct {
	t    testing.TB
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	last string
	ok   int
	bad  []string
}

func (h *host) asking(web, user string) *asking {
	ctx, stop := context.WithCancel(h.ctx())
	a := &asking{t: h.t, stop: stop, done: make(chan struct{})}
	h.t.Cleanup(stop)
	go func() {
		defer close(a.done)
		tick := time.NewTicker(100 * time.Millisecond) // the guest needs the CPU too
		defer tick.Stop()
		for ctx.Err() == nil {
			a.ask(ctx, web, user)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	return a
}

func (a *asking) ask(ctx context.Context, web, user string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+web+"/", http.NoBody)
	if err == nil {
		req.Header.Set("x-mvm-user", user)
	}
	resp, err := http.DefaultClient.Do(req)
	body, status := "", ""
	if err == nil {
		b, rerr := io.ReadAll(resp.Body)
		body, status, err = string(b), resp.Status, errors.Join(rerr, resp.Body.Close())
	}
	if ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil || !strings.HasPrefix(status, "200") {
		a.bad = append(a.bad, fmt.Sprintf("%s %v %q", status, err, body))
		return
	}
	a.last = body
	a.ok++
}

// saw is nil once an answer has the text.
func (a *asking) saw(text string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !strings.Contains(a.last, text) {
		return fmt.Errorf("the last answer is %q, not of %s; failed: %q", a.last, text, a.bad)
	}
	return nil
}

func (a *asking) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = ""
}

// end fails the test if a request has failed.
func (a *asking) end() {
	a.t.Helper()
	a.stop()
	<-a.done
	a.t.Logf("%d requests were answered", a.ok)
	if len(a.bad) > 0 {
		a.t.Errorf("%d requests failed: %q", len(a.bad), a.bad)
	}
}
