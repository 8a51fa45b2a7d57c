package hostd_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/network/fakenet"
	"mvm/internal/sys"
)

// strict is a host without VMMs that fails the test when it is asked for what a
// server should have refused.
type strict struct{ t *testing.T }

func (s strict) Launch(context.Context, spawn.Launch) (vmproc.Process, []string, error) {
	s.t.Error("a VMM without files got through")
	return nil, nil, errors.New("no files")
}

func (s strict) Find(context.Context, vmproc.Name, vmproc.Hint) (vmproc.Process, error) {
	return nil, sys.ErrNoProcess
}
func (s strict) Survey(context.Context) (vmproc.Survey, error)       { return vmproc.Survey{}, nil }
func (s strict) Walls(context.Context) ([]mvm.Finding, error)        { return nil, nil }
func (s strict) List(context.Context, string) ([]vmproc.Name, error) { return nil, nil }
func (s strict) Leave(_ context.Context, _ vmproc.Name, _ string, dirs []string) error {
	if len(dirs) > 0 {
		s.t.Errorf("folders %v got through", dirs)
	}
	return nil
}

// No request, whatever it carries, does more than refuse or what its checks allow.
func FuzzRequest(f *testing.F) {
	for kind, body := range []string{`{}`, `{}`, `{"Tenants":[{"ID":"acme","NetID":3,"Subnet":"10.240.3.0/24","Instances":[{"ID":"i-00030003","Offset":3}]}]}`,
		`{"tenant":"acme","instance":"i-00030003","uid":5000}`, `{}`, `{}`,
		`{"id":"i-00000001","run_dir":"/run/mvm-test/i/i-00000001","uid":5000,"gid":5000,"vcpus":1,"mem_mib":16,"kernel":false}`,
		`{"name":{"id":"i-00000001","run_dir":"/run/mvm-test/i/i-00000001"},"hint":{"pid":1,"start":1}}`, `{"name":{},"hint":{}}`, `{"name":{},"hint":{"pid":-1}}`,
		`{"name":{},"hint":{}}`, `{"root":"/run/mvm-test/i"}`, `{"name":{"id":"i-00000001","run_dir":"/x"},"cgroup":"mvm-i-00000001"}`} {
		f.Add(byte(kind), []byte(body))
	}
	f.Add(hostd.OpStart, []byte(`{"id":"i-00000001","run_dir":"/run/mvm-test/i/i-00000001","uid":5000,"gid":5000,"spec":{"accel":"tcg","vcpus":1,"mem_mib":16}}`))
	f.Add(hostd.OpLimitCPU, []byte(`{"name":{},"hint":{},"cpu":{"weight":-1,"milli":0}}`))
	f.Add(hostd.OpResolver, []byte(`{"tenant":"acme"}`))
	f.Add(hostd.OpDropped, []byte(`{"tenant":"acme","instance":"i-00030003"}`))
	f.Add(hostd.OpAdmit, []byte(`{"tenant":"acme","instance":"i-00030003","list":[{"address":"203.0.113.1","for":1}]}`))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		n := fakenet.New()
		defer n.Close()
		s, err := hostd.NewServer(hostd.Options{Bounds: hostdtest.Bounds("/run/mvm-test/i", "/run/mvm-test/qemu"),
			VMMs: hostdtest.QEMU(strict{t}), Network: n, Log: slog.New(slog.DiscardHandler)})
		must(t, err)
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_ = s.Do(ctx, kind, body)
	})
}

// Whatever bytes come, a frame is read whole and within its bounds, or refused.
func FuzzFrame(f *testing.F) {
	f.Add(frame(hostd.OpHello, []byte("{}")))
	f.Add(frame(hostd.OpApply, []byte(`{"Tenants":null}`)))
	f.Add([]byte{hostd.Version, hostd.OpApply, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{2, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 { // it has to fit into the socket
			return
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		conns := make([]*net.UnixConn, 2)
		for i, fd := range fds {
			file := os.NewFile(uintptr(fd), "pair")
			c, err := net.FileConn(file)
			must(t, errors.Join(err, file.Close()))
			conns[i] = c.(*net.UnixConn)
			defer c.Close()
		}
		_, err = conns[0].Write(b)
		must(t, err)
		must(t, conns[0].CloseWrite())
		kind, body, err := hostd.Receive(conns[1])
		if err == nil && string(frame(kind, body)) != string(b[:6+len(body)]) {
			t.Errorf("%q was read as %d, %q", b, kind, body)
		}
	})
}
