package agent_test

import (
	"errors"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// A person who stops what had crashed, or is being restarted, wants it stopped: it does not
// come back when the person's change is no longer looked after.
func TestStopOfWhatHadCrashedHolds(t *testing.T) {
	holding(t, func(t *testing.T, h *host) {
		h.makePool(desired(worker("workers"), 0, 0, 0))
		settled(time.Minute)
		i, err := h.a.CreateInstance(ctx(t), "acme", "workers", "ann")
		if err != nil {
			t.Fatal(err)
		}
		byHand := func(op mvm.OpKind) error {
			_, err := h.a.Operate(mvm.WithAsker(ctx(t), mvm.ParseAsker("cli:ann")), i.Address(), mvm.OpRequest{Op: op}, nil)
			return err
		}
		if err := byHand(mvm.OpStart); err != nil {
			t.Fatal(err)
		}
		settled(20 * time.Minute) // nobody's change is in force
		h.failing(func(op fake.Op, id string) error {
			if op == fake.OpStart {
				return errors.New("it can't start")
			}
			return nil
		})
		h.host.Crash(i.ID)
		settled(time.Minute)
		if now := h.get(i.ID); now.State != mvm.StateStopped {
			t.Fatalf("it is %s, want it crashed", now.State)
		}
		if err := byHand(mvm.OpStop); err != nil {
			t.Fatal(err)
		}
		h.failing(nil)
		settled(time.Hour)
		if now := h.get(i.ID); now.State != mvm.StateStopped {
			t.Errorf("an hour after a person stopped it it is %s", now.State)
		}
	})
}
