package fakenet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/network"
)

// Fail makes the next calls of op return err without doing anything: as many as
// times says, or all of them where it is negative. A nil err takes the failures back.
func (n *Network) Fail(op Op, err error, times int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.fail, op)
	if err != nil && times != 0 {
		n.fail[op] = failure{err, times}
	}
}

// Delay makes every call of op wait before it acts; a cancelled context ends the wait.
func (n *Network) Delay(op Op, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay[op] = d
}

// Leave puts a bridge or TAP by its name there as if a former agent had left it.
func (n *Network) Leave(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left[name] = true
}

// SetOccupied sets what the host itself has.
func (n *Network) SetOccupied(r ...network.Range) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.occupied = slices.Clone(r)
}

// SetFindings sets what Verify returns.
func (n *Network) SetFindings(f []network.Finding) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.findings = slices.Clone(f)
}

// Config returns the Config applied last.
func (n *Network) Config() network.Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cfg.Clone()
}

// Calls returns how often op was called, failed calls included.
func (n *Network) Calls(op Op) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls[op]
}

// Links returns the names of the bridges and TAPs that exist, sorted.
func (n *Network) Links() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reap()
	return slices.Sorted(maps.Keys(n.links()))
}

// State describes everything that exists and how often it changed, for comparing.
func (n *Network) State() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprint(n.changes, slices.Sorted(maps.Keys(n.links())), n.cfg)
}

func (n *Network) links() map[string]bool {
	all := map[string]bool{}
	maps.Copy(all, n.bridges)
	maps.Copy(all, n.left)
	for name := range n.taps {
		all[name] = true
	}
	return all
}

// extra names what exists and belongs to nobody. The lock is held.
func (n *Network) extra() []string {
	n.reap()
	all := n.links()
	for _, t := range n.cfg.Tenants {
		delete(all, mvm.BridgeName(t.NetID))
		for _, i := range t.Instances {
			delete(all, mvm.TAPName(t.NetID, i.Offset))
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// begin counts the call, waits and fails as the knobs say, and takes the lock, which
// is held on return only when the error is nil.
func (n *Network) begin(ctx context.Context, op Op) error {
	n.mu.Lock()
	n.calls[op]++
	d := n.delay[op]
	n.mu.Unlock()
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		kind := mvm.KindCanceled
		if errors.Is(err, context.DeadlineExceeded) {
			kind = mvm.KindTimeout
		}
		return mvm.Errorf(kind, "%s network: %w", op, err)
	}
	n.mu.Lock()
	if err := n.due(op); err != nil {
		n.mu.Unlock()
		return err
	}
	return nil
}

// due returns the failure that is set for op, if any. The lock is held.
func (n *Network) due(op Op) error {
	if n.closed && op != OpClose {
		return mvm.Errorf(mvm.KindState, "%s network: it is closed", op)
	}
	f := n.fail[op]
	switch {
	case f.times == 1:
		delete(n.fail, op)
	case f.times > 1:
		n.fail[op] = failure{f.err, f.times - 1}
	}
	return f.err
}

// reap forgets TAPs whose every writing end is closed. The lock is held.
func (n *Network) reap() {
	for name, r := range n.taps {
		if hungUp(r) {
			_ = r.Close()
			delete(n.taps, name)
		}
	}
}

// hungUp reports whether a pipe's reading end has no writer left.
func hungUp(r *os.File) bool {
	conn, err := r.SyscallConn()
	if err != nil {
		return true
	}
	eof := false
	var b [512]byte
	_ = conn.Read(func(fd uintptr) bool {
		for {
			got, err := syscall.Read(int(fd), b[:])
			if got > 0 || err == syscall.EINTR {
				continue
			}
			eof = got == 0 && err == nil
			return true
		}
	})
	return eof
}
