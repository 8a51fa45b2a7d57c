package vm_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"mvm"
)

// The machines behind the host, all of which one network namespace plays: in a private
// network, in a carrier's, on the internet and on the link.
const (
	lanHost, cgnHost, netHost, linkHost = "172.31.77.2", "100.64.77.2", "198.51.100.77", "169.254.77.2"
	lanHost6                            = "fd00:77::2"
)

// outside makes the namespace. TCP ports 80 and 81 of its addresses answer, and a name
// server says that every name is lanHost.
func outside(t testing.TB) {
	t.Helper()
	var ns *os.File
	var all []net.Listener
	var dns net.PacketConn
	opened := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		opened <- func() (err error) {
			if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
				ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
			}
			for _, port := range []string{":80", ":81"} {
				if err != nil {
					return err
				}
				var l net.Listener
				l, err = net.Listen("tcp", port)
				all = append(all, l)
			}
			if err == nil {
				dns, err = net.ListenPacket("udp4", ":53")
			}
			return err
		}()
	}()
	must(t, <-opened)
	var serving sync.WaitGroup
	for _, l := range all {
		serving.Go(func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				c.Close()
			}
		})
	}
	serving.Go(func() { answerNames(dns) })
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())
	run := func(argv ...string) {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%q: %v: %s", argv, err, out)
		}
	}
	t.Cleanup(func() {
		run("ip", "link", "delete", "mvmtest0")
		for _, l := range all {
			l.Close()
		}
		dns.Close()
		serving.Wait()
		ns.Close()
	})
	run("ip", "link", "add", "mvmtest0", "type", "veth", "peer", "name", "eth0", "netns", path)
	run("ip", "addr", "add", "172.31.77.1/24", "dev", "mvmtest0")
	run("ip", "-6", "addr", "add", "fd00:77::1/64", "dev", "mvmtest0", "nodad")
	run("ip", "link", "set", "mvmtest0", "up")
	for _, a := range []string{lanHost + "/24", cgnHost + "/32", netHost + "/32", linkHost + "/32"} {
		run("nsenter", "--net="+path, "ip", "addr", "add", a, "dev", "eth0")
	}
	run("nsenter", "--net="+path, "ip", "-6", "addr", "add", lanHost6+"/64", "dev", "eth0", "nodad")
	run("nsenter", "--net="+path, "ip", "link", "set", "eth0", "up")
	run("nsenter", "--net="+path, "ip", "route", "add", "default", "via", "172.31.77.1")
	run("nsenter", "--net="+path, "ip", "route", "add", "172.31.77.1/32", "dev", "eth0", "src", netHost) // of the name server's answers
	for _, a := range []string{cgnHost, netHost, linkHost} {
		run("ip", "route", "add", a, "dev", "mvmtest0", "src", "172.31.77.1")
	}
}

// answerNames answers every question with lanHost.
func answerNames(c net.PacketConn) {
	b := make([]byte, 1500)
	for n, from, err := c.ReadFrom(b); err == nil; n, from, err = c.ReadFrom(b) {
		var m dnsmessage.Message
		if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Additionals = true, nil
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
				Body: &dnsmessage.AResource{A: [4]byte(net.ParseIP(lanHost).To4())}}}
		}
		if out, err := m.Pack(); err == nil {
			_, _ = c.WriteTo(out, from)
		}
	}
}

// testEgress is the table of destinations by setting, tried from a real guest.
func (h *host) testEgress(guest mvm.Instance) {
	h.t.Helper()
	outside(h.t)
	set := func(list ...string) {
		p, err := h.client.Pool(h.ctx(), guest.Tenant, guest.Pool)
		must(h.t, err)
		p.Spec.Egress = list
		_, err = h.client.UpdatePool(h.ctx(), guest.Tenant, guest.Pool, mvm.PoolUpdate{Spec: &p.Spec})
		must(h.t, err)
	}
	close := func(closed bool) {
		_, err := h.client.UpdateTenant(h.ctx(), guest.Tenant, mvm.TenantUpdate{Closed: &closed})
		must(h.t, err)
	}
	for _, c := range []struct {
		name    string
		apply   func()
		reaches []string
	}{
		{"a new tenant", func() {}, []string{netHost + " 80"}},
		{"one port", func() { set(lanHost + ":80") }, []string{netHost + " 80", lanHost + " 80"}},
		{"networks", func() { set("172.31.77.0/24", "100.64.0.0/10:80") }, []string{netHost + " 80", lanHost + " 80", lanHost + " 81", cgnHost + " 80"}},
		{"all IPv4", func() { set("0.0.0.0/0") }, []string{netHost + " 80", lanHost + " 80", lanHost + " 81", cgnHost + " 80"}},
		{"a tenant from before", func() { set(); close(false) }, []string{netHost + " 80", lanHost + " 80", lanHost + " 81", cgnHost + " 80"}},
		{"closed again", func() { close(true) }, []string{netHost + " 80"}},
	} {
		c.apply()
		for _, to := range []string{netHost + " 80", lanHost + " 80", lanHost + " 81", cgnHost + " 80", linkHost + " 80", "172.31.77.1 22", lanHost6 + " 80"} {
			ip, port, _ := strings.Cut(to, " ")
			_, err := h.exec(guest.ID, "nc", "-w", "2", ip, port, "-e", "true")
			if want := slices.Contains(c.reaches, to); (err == nil) != want {
				h.t.Errorf("%s: %s: %v, want it reached: %t", c.name, to, err, want)
			}
		}
	}
	// The guest believes a name server outside, which names the private address.
	if out, err := h.exec(guest.ID, "nslookup", "rebind.test", netHost); err != nil || !strings.Contains(out, lanHost) {
		h.t.Errorf("the name server's answer: %q, %v", out, err)
	}
	must(h.t, h.write(guest.ID, "/etc/resolv.conf", "nameserver "+netHost+"\n"))
	if out, err := h.exec(guest.ID, "nc", "-w", "2", "rebind.test", "80", "-e", "true"); err == nil {
		h.t.Errorf("a name that leads to a private address was reached: %q", out)
	}
	set(lanHost)
	if _, err := h.exec(guest.ID, "nc", "-w", "2", "rebind.test", "80", "-e", "true"); err != nil {
		h.t.Errorf("a name that leads to an allowed address: %v", err)
	}
	found, err := h.client.NetVerify(h.ctx(), false, nil)
	must(h.t, err)
	if !slices.ContainsFunc(found, func(f mvm.Finding) bool {
		return strings.Contains(f.What, lanHost+":81/tcp") && strings.Contains(f.Where, guest.ID)
	}) {
		h.t.Errorf("net verify does not tell what the guest was refused: %+v", found)
	}
}
