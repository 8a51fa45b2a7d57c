package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver/qemu/qmp"
	"mvm/internal/guestproto"
	"mvm/internal/guestproto/mux"
)

// plain is QEMU run by hand: the arguments of a VMM that was restored, on a copy of
// its snapshot, and nothing of mvm.
type plain struct {
	b      *testing.B
	dir    string
	argv   []string
	inst   mvm.Instance
	netns  *os.File // of the TAP
	tap    *os.File
	cmd    *exec.Cmd
	qmp    *qmp.Client
	memory *os.File
	events chan qmp.Event
	guest  net.Conn // the guest channel's end
	opened []interface{ Close() error }
}

// newPlain takes the arguments of the instance's VMM.
func newPlain(b *testing.B, h *host, id string) *plain {
	b.Helper()
	s, err := h.client.Stats(h.ctx(), mvm.Address{Instance: id})
	must(b, err)
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.PID))
	must(b, err)
	p := &plain{b: b, dir: h.path("plain"), inst: h.get(id)}
	must(b, os.Mkdir(p.dir, 0o700))
	b.Cleanup(func() {
		p.end()
		if p.netns != nil {
			must(b, p.netns.Close())
		}
	})
	for _, a := range bytes.Split(bytes.TrimSuffix(line, []byte{0}), []byte{0}) {
		// A migration leaves memory out where it is shared: so plain QEMU saves it soonest.
		p.argv = append(p.argv, strings.Replace(string(a), "share=off", "share=on", 1))
	}
	for n, a := range p.argv {
		if a == "-name" {
			p.argv[n+1] = "plain" // no VMM of an agent's
		}
	}
	return p
}

// copySnapshot takes a copy of the sleeping instance's memory and device state.
func (p *plain) copySnapshot(h *host, id string) {
	p.b.Helper()
	h.unseal(id, filepath.Join(p.dir, "memory"), filepath.Join(p.dir, "state"))
}

var (
	fdMemory = regexp.MustCompile(`mem-path=/proc/self/fd/(\d+)`)
	fdSocket = regexp.MustCompile(`^socket,id=(\w+),fd=(\d+)`)
	fdTAP    = regexp.MustCompile(`^tap,id=net0,fd=(\d+)`)
)

// files opens what the arguments expect, under the numbers that they have for it, and
// connects to the sockets by their names.
func (p *plain) files() (extra []*os.File, conns map[string]*net.UnixConn) {
	p.b.Helper()
	conns = map[string]*net.UnixConn{}
	put := func(number string, f *os.File) {
		n, err := strconv.Atoi(number)
		must(p.b, err)
		for len(extra) <= n-3 {
			extra = append(extra, nil)
		}
		extra[n-3] = f
		p.opened = append(p.opened, f)
	}
	for _, a := range p.argv {
		if m := fdMemory.FindStringSubmatch(a); m != nil {
			f, err := os.OpenFile(filepath.Join(p.dir, "memory"), os.O_RDWR, 0)
			must(p.b, err)
			p.memory = f
			put(m[1], f)
		}
		if m := fdSocket.FindStringSubmatch(a); m != nil {
			f, conn := p.socket(m[1])
			conns[m[1]] = conn
			put(m[2], f)
		}
		if m := fdTAP.FindStringSubmatch(a); m != nil {
			p.apart(func() (err error) {
				p.tap, err = p.link()
				return err
			})
			put(m[1], p.tap)
		}
	}
	return extra, conns
}

// link makes the TAP in a network namespace of its own, in which the guest's gateway
// address is on it: what mvm made for the guest is not in the way.
func (p *plain) link() (tap *os.File, err error) {
	mac, err := net.ParseMAC(p.inst.MAC)
	if err != nil {
		return nil, err
	}
	t := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "plain0"}, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
	if err := netlink.LinkAdd(t); err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName("plain0")
	if err != nil {
		return nil, err
	}
	guest := p.inst.IP.AsSlice()
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(guest[0], guest[1], guest[2], 1), Mask: net.CIDRMask(24, 32)}}
	return t.Fds[0], errors.Join(
		netlink.LinkSetHardwareAddr(link, mvm.MAC(int(mac[2])<<8|int(mac[3]), mvm.GatewayOffset)), // as the guest knows it
		netlink.LinkSetUp(link), netlink.AddrAdd(link, addr),
		netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: guest, HardwareAddr: mac, State: netlink.NUD_PERMANENT}))
}

// apart runs fn in the namespace of the TAP, which is made at the first call.
func (p *plain) apart(fn func() error) {
	p.b.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() (err error) {
			if p.netns == nil {
				if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
					p.netns, err = os.Open("/proc/thread-self/ns/net")
				}
			} else {
				err = unix.Setns(int(p.netns.Fd()), unix.CLONE_NEWNET)
			}
			if err != nil {
				return err
			}
			return fn()
		}()
	}()
	must(p.b, <-done)
}

// socket makes a listening socket with a connection in its queue.
func (p *plain) socket(name string) (*os.File, *net.UnixConn) {
	p.b.Helper()
	path := filepath.Join(p.dir, name)
	_ = os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(p.b, err)
	defer l.Close()
	f, err := l.File()
	must(p.b, err)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	must(p.b, err)
	p.opened = append(p.opened, conn)
	return f, conn
}

// restore starts QEMU on the copy and returns the times from then until the guest
// runs and until its workload, or else its guest agent, has answered.
func (p *plain) restore(ctx context.Context, workload bool) (runs, answers time.Duration) {
	p.b.Helper()
	extra, conns := p.files()
	p.events = make(chan qmp.Event, 64)
	p.guest = conns["chan"]
	p.cmd = exec.Command(qemuBinary, p.argv[1:]...)
	p.cmd.ExtraFiles = extra
	var said bytes.Buffer
	p.cmd.Stderr = &said
	began := time.Now()
	must(p.b, p.cmd.Start())
	var err error
	if p.qmp, err = qmp.New(ctx, conns["qmp"], func(e qmp.Event) { p.events <- e }); err != nil {
		p.b.Fatalf("%v: %s", err, said.String())
	}
	p.migrate(ctx, "migrate-incoming", os.O_RDONLY, false)
	must(p.b, p.qmp.Do(ctx, "cont", nil, nil))
	p.await(ctx, "RESUME", "")
	runs = time.Since(began)
	if workload {
		p.apart(func() error {
			_, err := askFirstByte(net.JoinHostPort(p.inst.IP.String(), "8000"))
			return err
		})
		return runs, time.Since(began)
	}
	s, err := mux.Client(ctx, p.guest)
	must(p.b, err)
	c, err := s.Open(ctx, guestproto.GuestPort)
	must(p.b, err)
	if r, err := guestproto.Call(ctx, c, guestproto.Request{Ping: true}); err != nil || !r.Pong {
		p.b.Fatalf("ping: %+v, %v", r, err)
	}
	answers = time.Since(began)
	must(p.b, s.Close())
	return runs, answers
}

// save stops the guest and writes its state, and returns how long that took until it
// is on disk and QEMU is gone.
func (p *plain) save(ctx context.Context) time.Duration {
	p.b.Helper()
	began := time.Now()
	must(p.b, p.qmp.Do(ctx, "stop", nil, nil))
	state := p.migrate(ctx, "migrate", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, true)
	synced := make(chan error, 1)
	go func() { synced <- p.memory.Sync() }()
	must(p.b, errors.Join(state.Sync(), <-synced))
	p.end()
	return time.Since(began)
}

// migrate runs a migration of the device state to its end.
func (p *plain) migrate(ctx context.Context, command string, flags int, ignoreShared bool) *os.File {
	p.b.Helper()
	f, err := os.OpenFile(filepath.Join(p.dir, "state"), flags, 0o600)
	must(p.b, err)
	p.opened = append(p.opened, f)
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	caps := map[string]any{"capabilities": []capability{{"x-ignore-shared", ignoreShared}, {"events", true}}}
	must(p.b, p.qmp.Do(ctx, "migrate-set-capabilities", caps, nil))
	must(p.b, p.qmp.SendFile(ctx, "state", f))
	must(p.b, p.qmp.Do(ctx, command, map[string]any{"uri": "fd:state"}, nil))
	p.await(ctx, "MIGRATION", `"completed"`)
	return f
}

// await waits for an event with the text in it.
func (p *plain) await(ctx context.Context, name, text string) {
	p.b.Helper()
	for {
		select {
		case e := <-p.events:
			if e.Name == name && bytes.Contains(e.Data, []byte(text)) {
				return
			}
		case <-ctx.Done():
			p.b.Fatalf("wait for %s %s: %v", name, text, ctx.Err())
		}
	}
}

// end kills QEMU, if it runs, and closes everything.
func (p *plain) end() {
	p.b.Helper()
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // it was killed
	}
	if p.qmp != nil {
		_ = p.qmp.Close()
	}
	p.cmd, p.qmp = nil, nil
	for _, o := range p.opened {
		if f, ok := o.(*os.File); !ok || f != nil {
			_ = o.Close()
		}
	}
	p.opened = nil
}

const qemuBinary = "qemu-system-x86_64"
