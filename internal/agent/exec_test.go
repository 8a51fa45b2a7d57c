package agent_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"mvm"
	"mvm/internal/driver/fake"
)

// A command whose input is cut off is killed. It must not take the half that it got for
// the whole.
func TestExecOfInputThatIsCutOff(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	cut := errors.New("the other end is gone")
	in := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(cut))
	_, err := h.a.Exec(ctx(t), i.Address(), mvm.ExecSpec{Argv: []string{"tee", "/tmp/half"}}, mvm.ExecIO{Stdin: in, Stdout: io.Discard, Stderr: io.Discard})
	if !errors.Is(err, cut) {
		t.Errorf("got %v, want %v", err, cut)
	}
	code, err := h.a.Exec(ctx(t), i.Address(), mvm.ExecSpec{Argv: []string{"cat", "/tmp/half"}}, mvm.ExecIO{Stdout: io.Discard, Stderr: io.Discard})
	if code != 1 || err != nil {
		t.Errorf("cat of what a command with half of its input wrote: code %d, %v, want 1", code, err)
	}
}

// A guest whose mvm-guest is older than the host's says that it knows no such request.
func TestCopyWithAnOlderGuest(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	h.host.Behave(i.ID, fake.Behavior{Refuse: `Request "Copy": no such variant`, Only: []string{"Copy"}})
	_, err := h.a.Copy(ctx(t), i.Address(), mvm.CopySpec{Path: "/data/x"}, mvm.ExecIO{Stdout: io.Discard, Stderr: io.Discard})
	if !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "from an older mvm version") || !strings.Contains(err.Error(), "mvm instance restart "+i.ID) {
		t.Errorf("got %v, want what to do about an older guest", err)
	}
}
