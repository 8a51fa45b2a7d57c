package vm_test

import (
	"fmt"
	"net"
	"net/netip"
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
	"mvm/internal/testenv"
)

// The machines behind the host, all of which one network namespace plays: in a private
// network, in a carrier's, on the internet and on the link.
const (
	lanHost, cgnHost, netHost, linkHost = "172.31.77.2", "100.64.77.2", "198.51.100.77", "169.254.77.2"
	lanHost6                            = "fd00:77::2"
)

// outside makes the namespace. TCP ports 80 and 81 of its addresses answer, and a name server.
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

// answerNames answers that public names are netHost, private ones lanHost, and those that
// rebind the one first and then the other.
func answerNames(c net.PacketConn) {
	b := make([]byte, 1500)
	asked := map[string]int{}
	for n, from, err := c.ReadFrom(b); err == nil; n, from, err = c.ReadFrom(b) {
		var m dnsmessage.Message
		if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Additionals = true, nil
		q, to := m.Questions[0], netHost
		name, _, _ := strings.Cut(q.Name.String(), ".")
		if asked[q.GoString()]++; name == "private" || name == "rebind" && asked[q.GoString()] > 1 {
			to = lanHost
		}
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}
		switch {
		case q.Type == dnsmessage.TypeA:
			m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte(net.ParseIP(to).To4())}}}
		case q.Type == dnsmessage.TypeAAAA && to == lanHost:
			m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: [16]byte(net.ParseIP(lanHost6))}}}
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
	h.stop()
	h.dns = []netip.Addr{netip.MustParseAddr(netHost)}
	h.start()
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
	h.testNames(guest, set, close)
	h.tellsOfRefused(guest, lanHost+":81/tcp", netHost+":53/udp")
}

// tellsOfRefused: net verify says what the guest tried and was refused.
func (h *host) tellsOfRefused(guest mvm.Instance, all ...string) {
	h.t.Helper()
	found, err := h.client.NetVerify(h.ctx(), false, nil)
	must(h.t, err)
	for _, what := range all {
		if !slices.ContainsFunc(found, func(f mvm.Finding) bool { return strings.Contains(f.What, what) && strings.Contains(f.Where, guest.ID) }) {
			h.t.Errorf("net verify does not tell that the guest was refused %s: %+v", what, found)
		}
	}
}

// testNames is the table of names by setting. The agent asks the name server outside.
func (h *host) testNames(guest mvm.Instance, set func(...string), close func(bool)) {
	h.t.Helper()
	reaches := func(when, to, port string, want bool) {
		h.t.Helper()
		if out, err := h.exec(guest.ID, "nc", "-w", "2", to, port, "-e", "true"); (err == nil) != want {
			h.t.Errorf("%s: %s %s: %v %q, want it reached: %t", when, to, port, err, out, want)
		}
	}
	names := func(when string, argv []string, want string) {
		h.t.Helper()
		out, _ := h.exec(guest.ID, append([]string{"nslookup"}, argv...)...) // fails without any address
		_, answer, _ := strings.Cut(out, "Name:")                            // behind the server's own address
		if has := strings.Contains(answer, "Address: "); has != (want != "") || !strings.Contains(answer, want) {
			h.t.Errorf("%s: %q is %q, want %q", when, argv, out, want)
		}
	}
	asks := func(server string) {
		h.t.Helper()
		testenv.Eventually(h.t, patience, func() error {
			if out, err := h.exec(guest.ID, "cat", "/etc/resolv.conf"); err != nil || strings.TrimSpace(out) != "nameserver "+server {
				return fmt.Errorf("the guest asks %q, want %s: %w", out, server, err)
			}
			return nil
		})
	}
	gateway, _ := mvm.SubnetAddr(mvm.DefaultSubnet(21), mvm.GatewayOffset)
	asks(gateway.String())
	names("closed", []string{"public.test"}, netHost)
	names("closed", []string{"private.test"}, "")
	names("closed, of another server", []string{"public.test", netHost}, "")
	reaches("closed", "public.test", "80", true)
	reaches("closed", "private.test", "80", false)
	set(lanHost + ":80")
	names("allowed by address", []string{"-type=a", "private.test"}, lanHost)
	names("IPv6 of it", []string{"-type=aaaa", "private.test"}, "")
	reaches("allowed by address", "private.test", "80", true)
	reaches("another port", "private.test", "81", false)
	set("public.test", "*.rebind.test", "rebind.test")
	reaches("before the name was asked for", netHost, "80", false)
	names("a name that egress has", []string{"public.test"}, netHost)
	reaches("a name that egress has", "public.test", "80", true)
	reaches("where the name led", netHost, "80", true)
	names("a name that egress does not have", []string{"other.test"}, "")
	reaches("another address", cgnHost, "80", false)
	reaches("another address", lanHost, "80", false)
	names("rebind, first", []string{"-type=a", "rebind.test"}, netHost)
	names("rebind, then", []string{"-type=a", "rebind.test"}, "")
	reaches("rebind", lanHost, "80", false)
	h.do(guest.ID, mvm.OpSleep)
	h.do(guest.ID, mvm.OpWake)
	reaches("awake again", netHost, "80", true)
	set("*.rebind.test")
	reaches("a name that was taken away", netHost, "80", false)
	h.tellsOfRefused(guest, `the name "private.test"`, `the name "other.test"`)
	set()
	close(false) // nobody listens for a tenant that is open, and what it was refused is forgotten
	asks(netHost)
	names("a tenant from before", []string{"private.test"}, lanHost)
	close(true)
	asks(gateway.String())
}
