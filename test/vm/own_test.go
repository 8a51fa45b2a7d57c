package vm_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
)

const (
	ownProgram = "../../docs/own-program.md"
	imgOwn     = "own" // the program of docs/own-program.md
)

// prepareOwn makes the folder of the image as docs/own-program.md says.
func prepareOwn(t *testing.T) {
	t.Helper()
	script := block(t, ownProgram, "Write it", "sh", 0) + block(t, ownProgram, "Make an image of it", "sh", 0)
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", strings.ReplaceAll(script, "/srv/images/hello", filepath.Join(place(), "src", imgOwn)))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the program of %s: %v\n%s", ownProgram, err, out)
	}
}

// TestOwnProgram: the program of docs/own-program.md, added to a built-in image, answers
// its user as that page says, and goes on where it was after a sleep.
func TestOwnProgram(t *testing.T) {
	h := newHost(t, "qemu")
	_, text, _ := strings.Cut(block(t, ownProgram, "Deploy it", "sh", 0), "\n")
	text, _, _ = strings.Cut(text, "\nEND\n")
	text = strings.ReplaceAll(text, "dir:/srv/images/hello", imageRef(imgOwn))
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
}
