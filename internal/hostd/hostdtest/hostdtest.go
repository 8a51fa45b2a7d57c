// Package hostdtest runs a hostd server for tests, in their own process.
package hostdtest

import (
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/network/fakenet"
	"mvm/internal/testenv"
)

// Bounds are such that tests may use any user but root's.
func Bounds(runRoot, probeRoot string) vmproc.Bounds {
	return vmproc.Bounds{RunRoot: runRoot, ProbeRoot: probeRoot, FirstUID: 1000, LastUID: 1<<31 - 1}
}

// QEMU are the launchers of a server that has QEMU alone.
func QEMU(h spawn.Host) map[string]vmproc.Launcher {
	return map[string]vmproc.Launcher{spawn.Kind: spawn.Launcher(h)}
}

// Serve serves until the test's end, and returns a client and the socket. What the
// options lack is bounded by /run/mvm-test, works on this host, or is a fake.
func Serve(t testing.TB, opt hostd.Options) (*hostd.Client, string) {
	t.Helper()
	if opt.Bounds == (vmproc.Bounds{}) {
		opt.Bounds = Bounds("/run/mvm-test/i", "/run/mvm-test/qemu")
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Network == nil {
		n := fakenet.New()
		t.Cleanup(func() { _ = n.Close() })
		opt.Network = n
	}
	if opt.VMMs == nil {
		vmms, err := spawn.New(spawn.Options{Bounds: opt.Bounds, Log: opt.Log})
		if err != nil {
			t.Fatal(err)
		}
		opt.VMMs = QEMU(vmms)
	}
	s, err := hostd.NewServer(opt)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(testenv.Dir(t), "hostd.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return hostd.NewClient(path), path
}
