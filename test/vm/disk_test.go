package vm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/sys"
	"mvm/internal/testenv"
)

// TestFullDisk: a sleep for which there is no space fails with a clear error, and the
// instance goes on; with space it sleeps, and wakes. A wake needs no
// space. An instance whose disk can't
// grow stands still, and goes on when there is space.
func TestFullDisk(t *testing.T) {
	h := newHostOf(t, "qemu", 680)
	h.deploy("[tenant]\nid = \"acme\"\n" + workerPool("writers", 1) + strings.Replace(workerPool("workers", 1), "data_disk_mib = 64", "", 1))
	filler := filepath.Join(h.data, "filler")
	id, writer := h.only("workers").ID, h.only("writers").ID
	h.mark(id, "kept")
	before, wrote := h.trace(id), h.report(writer)
	fill(t, filler)
	h.sleepsNot(id, before)
	h.standsStill(writer)
	must(t, os.Remove(filler))
	h.do(id, mvm.OpSleep)
	h.wantOwned()
	fill(t, filler)
	if i := h.do(id, mvm.OpWake); i.Last.Kind != "warm" {
		t.Errorf("the wake was %s: %s", i.Last.Kind, i.Last.Reason)
	}
	must(t, os.Remove(filler))
	if got := h.trace(id); got != before {
		t.Errorf("after the wake the guest has %+v, want %+v", got, before)
	}
	testenv.Eventually(t, patience, func() error {
		_, err := h.exec(writer, "true")
		return err
	})
	testenv.Eventually(t, patience, func() error {
		if i := h.get(writer); i.State != mvm.StateRunning || i.Op != nil || i.Problem != "" || i.Stalled != "" {
			return fmt.Errorf("the writer is %s with %+v and problem %q, want it settled", i.State, i.Op, i.Problem)
		}
		return nil
	})
	if now := h.report(writer); len(now.Faults) > 0 || now.PID != wrote.PID || now.Seq <= wrote.Seq {
		t.Errorf("with space again the writer has %+v, and had %+v", now, wrote)
	}
}

// sleepsNot tries a sleep on the full disk.
func (h *host) sleepsNot(id string, want trace) {
	h.t.Helper()
	_, err := h.try(id, mvm.OpSleep)
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		h.t.Errorf("the sleep ended with: %v, want an error that says that no space is left", err)
	}
	h.t.Logf("a sleep without space: %v", err)
	if n, err := sys.FreeBytes(h.data); err != nil || n > 1<<20 {
		h.t.Errorf("%d bytes are free, %v: the disk was not full", n, err)
	}
	if i := h.get(id); i.State != mvm.StateRunning || i.Op != nil {
		h.t.Errorf("it is %s with %+v, want running", i.State, i.Op)
	}
	if got := h.trace(id); got != want {
		h.t.Errorf("the guest has %+v, want %+v", got, want)
	}
}

// standsStill waits until the writer can't write any more, and tries to put it to sleep.
func (h *host) standsStill(id string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.ctx(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil { // until it does not answer
		_, err := h.client.Exec(ctx, mvm.Address{Instance: id}, mvm.ExecSpec{Argv: []string{"dd", "if=/dev/zero", "of=/data/more", "bs=1M", "count=30", "conv=fsync"}}, mvm.ExecIO{})
		if err != nil {
			break
		}
	}
	const why = "the host's disk is full"
	testenv.Eventually(h.t, patience, func() error {
		if i := h.get(id); !strings.HasPrefix(i.Stalled, why) {
			return fmt.Errorf("it is %s, stalled %q; want that it stands still", i.State, i.Stalled)
		}
		return nil
	})
	if _, err := h.exec(id, "true"); err == nil || !strings.Contains(err.Error(), why) {
		h.t.Errorf("a command in a guest that stands still ended with: %v, want why", err)
	}
	_, err := h.client.Operate(h.ctx(), mvm.Address{Instance: id}, mvm.OpRequest{Op: mvm.OpSleep, Force: true}, nil)
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		h.t.Errorf("the sleep of a guest that stands still ended with: %v, want an error that says that no space is left", err)
	}
	h.t.Logf("a sleep of a guest that stands still: %v", err)
	if i := h.get(id); i.State != mvm.StateRunning || i.Op == nil || i.Op.Kind != mvm.OpSleep || !strings.Contains(i.Problem, "no space left") {
		h.t.Errorf("it is %s with %+v and problem %q, want it running, with a problem and the sleep to be taken back", i.State, i.Op, i.Problem)
	}
}

// report asks the workload's writer from within its guest.
func (h *host) report(id string) (r report) {
	h.t.Helper()
	out, err := h.exec(id, "wget", "-q", "-O", "-", "http://127.0.0.1:8000/check")
	must(h.t, err)
	must(h.t, json.Unmarshal([]byte(out), &r))
	return r
}

// fill writes to the file until no space is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for _, size := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}
