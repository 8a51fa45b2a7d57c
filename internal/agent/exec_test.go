package agent_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"mvm"
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
