package vm_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"mvm"
	"mvm/internal/testenv"
)

// maxAgentRSS bounds the memory of an agent with hostile guests.
const maxAgentRSS = 256 << 20

// mutePool and floodPool have guests that never answer their host; the second one
// writes to it without end.
var (
	mutePool  = hostilePool(imgMute)
	floodPool = hostilePool(imgFlood)
)

func hostilePool(image string) string {
	return fmt.Sprintf("\n[[pools]]\nid = %q\nflake = %q\nvcpus = 1\nmem_mib = 128\n", image, imageRef(image))
}

// started is how a start ended.
type started struct {
	id  string
	err chan error
}

// startMute begins the start of a mute guest, for which the agent waits for minutes.
func (h *host) startMute() started {
	h.t.Helper()
	return h.startHostile(imgMute)
}

func (h *host) startHostile(pool string) started {
	h.t.Helper()
	_, err := h.client.BuildPool(h.ctx(), "acme", pool, nil)
	must(h.t, err)
	i, err := h.client.CreateInstance(h.ctx(), "acme", pool, "")
	must(h.t, err)
	h.seen[i.ID] = true
	s := started{i.ID, make(chan error, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	h.t.Cleanup(cancel)
	go func() {
		_, err := h.client.Operate(ctx, mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpStart}, nil)
		s.err <- err
	}()
	return s
}

// testMute: a guest that never answers costs its own start, with a clear error.
func (h *host) testMute(mute started) {
	var err error
	select {
	case err = <-mute.err:
	case <-time.After(3 * patience):
		h.t.Fatal("its start did not end")
	}
	if err == nil || !strings.Contains(err.Error(), "did not answer") {
		h.t.Errorf("the start ended with: %v, want an error that says that the guest did not answer", err)
	}
	if i := h.get(mute.id); i.State.HoldsMemory() || i.Op != nil {
		h.t.Errorf("it is %s, with %+v", i.State, i.Op)
	}
	h.do(mute.id, mvm.OpDestroy)
	h.wantOwned()
}

// testFlood: a guest that floods its channel does not fill the agent's memory, nor
// keep it from its work.
func (h *host) testFlood() {
	flood := h.startHostile(imgFlood)
	testenv.Eventually(h.t, patience, func() error {
		var text []string
		err := h.client.Logs(h.ctx(), mvm.Address{Instance: flood.id}, mvm.LogsSpec{Console: true}, func(l mvm.LogLine) error {
			text = append(text, l.Text)
			return nil
		})
		if err == nil && !strings.Contains(strings.Join(text, "\n"), "flooding") {
			err = fmt.Errorf("its console says %q", text)
		}
		return err
	})
	for range 20 {
		s, err := h.client.NodeStats(h.ctx())
		must(h.t, err)
		if s.AgentRSS > maxAgentRSS {
			h.t.Fatalf("the agent has %d MiB", s.AgentRSS>>20)
		}
		time.Sleep(100 * time.Millisecond) // it floods meanwhile
	}
	h.do(flood.id, mvm.OpDestroy)
	if err := <-flood.err; err == nil {
		h.t.Error("its start succeeded")
	}
	h.wantOwned()
}
