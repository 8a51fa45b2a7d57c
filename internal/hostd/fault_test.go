package hostd_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/sys"
)

// faulty is a spawn.Host that lacks something.
type faulty struct {
	spawn.Host
	err atomic.Value // error
}

func (h *faulty) Launch(context.Context, spawn.Launch) (vmproc.Process, []string, error) {
	return nil, nil, h.err.Load().(error)
}

func (h *faulty) Find(context.Context, vmproc.Name, vmproc.Hint) (vmproc.Process, error) {
	return nil, sys.ErrNoProcess
}

func (h *faulty) Leave(context.Context, vmproc.Name, string, []string) error { return nil }

// What the host lacks is known on the agent's side as on the server's: the agent keeps a
// guest's memory by it.
func TestHostFaultsCrossTheSocket(t *testing.T) {
	w := newWorld(t)
	f := &faulty{}
	client, _ := hostdtest.Serve(t, hostd.Options{Bounds: w.bounds(), VMMs: hostdtest.QEMU(f)})
	l := w.launch("i-00000009")
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EROFS, syscall.EIO} {
		f.err.Store(mvm.Errorf(mvm.KindInternal, "start the VMM: %w", &os.PathError{Op: "fork/exec", Path: "/usr/bin/qemu", Err: errno}))
		_, _, err := spawn.Over(client.VMMs(spawn.Kind)).Launch(t.Context(), l)
		if !errors.Is(err, errno) || !mvm.IsKind(err, mvm.KindInternal) {
			t.Errorf("launch: %v, want %v in its chain and the kind %q", err, errno, mvm.KindInternal)
		}
	}
	f.err.Store(mvm.Errorf(mvm.KindUnavailable, "start the VMM").WithFix("install it"))
	_, _, err := spawn.Over(client.VMMs(spawn.Kind)).Launch(t.Context(), l)
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "(install it)") {
		t.Errorf("launch: %v, want what to do", err)
	}
}

// A server that does not answer is the host's fault, and says nothing of a VMM.
func TestServerThatIsAwayIsAFault(t *testing.T) {
	w := newWorld(t)
	client := hostd.NewClient(w.dir + "/none.sock")
	_, _, err := spawn.Over(client.VMMs(spawn.Kind)).Launch(t.Context(), w.launch("i-0000000b"))
	if _, lacks := sys.Fault(err); !lacks || !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "systemctl") {
		t.Errorf("launch: %v, want a fault of the host with what to do", err)
	}
}

// A missing VMM binary is told as such, with what to do.
func TestMissingBinary(t *testing.T) {
	w := newWorld(t)
	binary := w.dir + "/qemu"
	must(t, os.WriteFile(binary, []byte("#!/bin/false\n"), 0o755))
	host, err := spawn.New(spawn.Options{Binary: binary, Bounds: w.bounds()})
	must(t, err)
	must(t, os.Remove(binary))
	client, _ := hostdtest.Serve(t, hostd.Options{Bounds: w.bounds(), VMMs: hostdtest.QEMU(host)})
	_, _, err = spawn.Over(client.VMMs(spawn.Kind)).Launch(t.Context(), w.launch("i-0000000a"))
	if !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("launch: %v, want unavailable with what to install", err)
	}
}
