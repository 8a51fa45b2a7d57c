package linuxnet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdpacket "github.com/mdlayher/packet"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/network/linuxnet"
	"mvm/internal/network/networktest"
)

// world is a host in a namespace with two tenants, whose guests are TAPs that the
// test reads and writes itself, and an outside in another namespace.
//
//	acme (10.240.3.0/24): a3, a4        zeta (10.240.4.0/24): z3
//	beta (10.240.5.0/24), which is closed: b3; b6, a gateway; b7 and b8, of users, alone
//	host: 192.0.2.1 ── veth ── 192.0.2.2: outside, which routes all of 10.0.0.0/8
//	to the host, as the host does with what it does not know
type world struct {
	t             testing.TB
	host, outside *testNS
	net           *linuxnet.Network
	cfg           network.Config
	taps          map[string]*os.File
	wire          *mdpacket.Conn // the outside's end
	hostUDP       []*net.UDPConn
	hostTCP       []net.Listener

	mu     sync.Mutex
	closed bool
	conns  []io.Closer
	seen   map[string][]string // marker to where it arrived
	wg     sync.WaitGroup
}

var (
	ipA3, ipA4, ipA5 = addr("10.240.3.3"), addr("10.240.3.4"), addr("10.240.3.5")
	ipZ3             = addr("10.240.4.3")
	gwA, gwZ         = addr("10.240.3.1"), addr("10.240.4.1")
	ipHost, ipOut    = addr("192.0.2.1"), addr("192.0.2.2")
	macA3, macA4     = mvm.MAC(3, 3), mvm.MAC(3, 4)
	macZ3            = mvm.MAC(4, 3)
	macGwA           = mvm.MAC(3, 1)
	macHost          = mac("02:00:00:00:00:aa")
	macOut           = mac("02:00:00:00:00:bb")
)

const (
	portUDP      = 7777  // the host listens on it, on every address
	portTCP      = 7778  // likewise, and no tenant may reach it
	portAcme     = 8080  // a host port of acme; the host listens on every address
	portZeta     = 9090  // a host port of zeta
	markerPorts  = 20000 // an attack's source port is this and its number
	vnetHdrBytes = 10
)

func newWorld(t testing.TB, bridgeNF string, opts linuxnet.Options) *world {
	w := &world{t: t, host: newNamespace(t), outside: newNamespace(t), taps: map[string]*os.File{}, seen: map[string][]string{}}
	w.setBridgeNF(bridgeNF)
	w.connectOutside()
	opts.Netns = w.host.path
	n, err := linuxnet.New(opts)
	if err != nil {
		t.Fatalf("open network: %v", err)
	}
	w.net = n
	t.Cleanup(w.close)
	w.cfg = networktest.Config(networktest.Tenant("acme", 3, 3, 4, 5), networktest.Tenant("zeta", 4, 3), networktest.Tenant("beta", 5, 3, 6, 7, 8))
	w.cfg.Tenants[2].Closed = true
	for n := range w.cfg.Tenants[2].Instances {
		i := &w.cfg.Tenants[2].Instances[n]
		i.Gateway, i.Alone = i.Offset == 6, i.Offset > 6
	}
	w.cfg.Tenants[0].HostPorts = []int{portAcme}
	w.cfg.Tenants[1].HostPorts = []int{portZeta}
	if err := n.Apply(context.Background(), w.cfg); err != nil {
		t.Fatalf("apply: %v", err)
	}
	w.listen()
	return w
}

// setBridgeNF turns br_netfilter on ("1") or off in the host's namespace.
func (w *world) setBridgeNF(value string) {
	const key = "net/bridge/bridge-nf-call-"
	if _, err := os.Stat("/proc/sys/" + key + "iptables"); err != nil {
		if value == "0" {
			return
		}
		if out, err := exec.Command("modprobe", "br_netfilter").CombinedOutput(); err != nil {
			w.t.Skipf("this kernel has no br_netfilter: %s", out)
		}
	}
	for _, family := range []string{"iptables", "ip6tables", "arptables"} {
		w.host.sysctl(key+family, value)
	}
}

func (w *world) connectOutside() {
	w.host.run("ip", "link", "add", "wan", "address", macHost.String(), "type", "veth", "peer", "name", "eth0", "netns", w.outside.path)
	w.host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "wan")
	w.host.run("ip", "link", "set", "wan", "up")
	w.outside.run("ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
	w.outside.run("ip", "link", "set", "eth0", "up")
	w.host.run("ip", "route", "add", "default", "via", "192.0.2.2")
	w.outside.run("ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.1")
}

// tap opens the TAP of an instance by a name like a3 and watches what arrives there.
func (w *world) tap(name string) *os.File {
	w.t.Helper()
	tenant := w.cfg.Tenants[map[byte]int{'a': 0, 'z': 1, 'b': 2}[name[0]]]
	i := slices.IndexFunc(tenant.Instances, func(i network.Instance) bool { return i.Offset == int(name[1]-'0') })
	f, err := w.net.OpenTAP(context.Background(), tenant.ID, tenant.Instances[i].ID, 0)
	if err != nil {
		w.t.Fatalf("open TAP of %s: %v", name, err)
	}
	w.taps[name] = f
	return f
}

// watch has every frame that arrives at the TAP looked at.
func (w *world) watch(name string) {
	f := w.tap(name)
	w.wg.Go(func() {
		b := make([]byte, 70000)
		for {
			n, err := f.Read(b)
			if err != nil {
				return
			}
			if n > vnetHdrBytes {
				w.arrived(name, b[vnetHdrBytes:n])
			}
		}
	})
}

// listen watches the outside's wire and UDP on every address of the host.
func (w *world) listen() {
	w.outside.do(func() {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			w.wire, err = mdpacket.Listen(link, mdpacket.Raw, 3, nil) // ETH_P_ALL
		}
		if err != nil {
			w.t.Errorf("watch the outside: %v", err)
		}
	})
	w.wg.Go(func() {
		b := make([]byte, 70000)
		for {
			n, from, err := w.wire.ReadFrom(b)
			if err != nil {
				return
			}
			if a, ok := from.(*mdpacket.Addr); !ok || !bytes.Equal(a.HardwareAddr, macHost) {
				continue // what the outside itself sends
			}
			w.arrived("outside", b[:n])
		}
	})
	w.listenUDP("udp4", portUDP)
	w.listenUDP("udp4", 67)
}

func (w *world) listenUDP(family string, port int) {
	var c *net.UDPConn
	var err error
	w.host.do(func() { c, err = net.ListenUDP(family, &net.UDPAddr{Port: port}) })
	if err != nil {
		w.t.Fatalf("listen on the host: %v", err)
	}
	w.hostUDP = append(w.hostUDP, c)
	w.wg.Go(func() {
		b := make([]byte, 70000)
		for {
			n, _, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			w.record("host", markerIn(b[:n]))
		}
	})
}

// listenTCP answers on every address of the host: on the tenants' ports and another.
func (w *world) listenTCP() {
	for _, port := range []int{portTCP, portAcme, portZeta} {
		var l net.Listener
		var err error
		w.host.do(func() { l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)) })
		if err != nil {
			w.t.Fatalf("listen on the host: %v", err)
		}
		w.hostTCP = append(w.hostTCP, l)
		w.wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		})
	}
}

func (w *world) close() {
	for _, f := range w.taps {
		_ = f.Close()
	}
	if w.wire != nil {
		_ = w.wire.Close()
	}
	for _, c := range w.hostUDP {
		_ = c.Close()
	}
	for _, l := range w.hostTCP {
		_ = l.Close()
	}
	w.mu.Lock()
	w.closed = true
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
	_ = w.net.Close()
}

// closeLater closes c with the world.
func (w *world) closeLater(c io.Closer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, c)
	if w.closed {
		_ = c.Close()
	}
}

// marker is put into a frame's data, or into its source port, so that the frame or
// an answer to it is known again.
func marker(id int) []byte { return fmt.Appendf(nil, "<mvm:%04d>", id) }

func markerIn(b []byte) string {
	i := bytes.Index(b, []byte("<mvm:"))
	if i < 0 || len(b) < i+10 {
		return ""
	}
	return string(b[i : i+10])
}

func (w *world) arrived(where string, frame []byte) {
	m := markerIn(frame)
	switch {
	case m != "" && frame[12] == 8 && frame[13] == 0 && frame[23] == protoICMP && (frame[34] == 5 || frame[34] == 3 && frame[35] == 13):
		m = fmt.Sprintf("error %d/%d about %s", frame[34], frame[35], m) // of the host, with the packet in it
	case m != "" || len(frame) < 42:
	case frame[12] == 8 && frame[13] == 0 && frame[23] == protoTCP: // an answer to our port
		if port := int(binary.BigEndian.Uint16(frame[14+22:])); port >= markerPorts && port < markerPorts+10000 {
			m = string(marker(port - markerPorts))
		} else if port := int(binary.BigEndian.Uint16(frame[14+20:])); port >= markerPorts && port < markerPorts+10000 {
			m = string(marker(port - markerPorts))
		}
	case frame[12] == 8 && frame[13] == 6 && frame[21] == 2: // who answers for which address
		m = "arp reply for " + netip.AddrFrom4([4]byte(frame[28:32])).String()
	}
	w.record(where, m)
}

func (w *world) record(where, m string) {
	if m == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.seen[m], where) {
		w.seen[m] = append(w.seen[m], where)
	}
}

// arrivals returns where the marker was seen.
func (w *world) arrivals(m string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(slices.Sorted(slices.Values(w.seen[m])), " ")
}

// send puts a frame into the TAP, or onto the outside's wire.
func (w *world) send(from string, frame []byte) {
	w.t.Helper()
	var err error
	if from == "outside" {
		_, err = w.wire.WriteTo(frame, &mdpacket.Addr{HardwareAddr: frame[:6]})
	} else {
		_, err = w.taps[from].Write(append(make([]byte, vnetHdrBytes), frame...))
	}
	if err != nil && !strings.Contains(err.Error(), "invalid argument") { // the kernel may refuse a malformed frame
		w.t.Fatalf("send from %s: %v", from, err)
	}
}

// eventually polls until ok or the deadline.
func eventually(within time.Duration, ok func() bool) bool {
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(2 * time.Millisecond)
	}
	return true
}

// fence sends something allowed to every place after the attacks and waits until it
// has arrived there, so that the attacks would have, too.
func (w *world) fence(id int, within time.Duration) bool {
	m := marker(id)
	w.send("a3", ether(macA4, macA3, typeIPv4, udp(ipA3, ipA4, 1, 1, m).bytes()))
	w.send("a3", ether(macGwA, macA3, typeIPv4, udp(ipA3, ipOut, 1, 1, m).bytes()))
	for _, to := range []netip.Addr{ipA3, ipZ3, ipHost} {
		_, err := w.hostUDP[0].WriteToUDPAddrPort(m, netip.AddrPortFrom(to, portUDP))
		if err != nil {
			w.t.Fatalf("send from the host to %s: %v", to, err)
		}
	}
	return eventually(within, func() bool { return w.arrivals(string(m)) == "a3 a4 host outside z3" })
}

func (ns *testNS) sysctl(key, value string) {
	ns.t.Helper()
	ns.do(func() {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
			ns.t.Errorf("set %s: %v", key, err)
		}
	})
}
