package resolver_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"mvm/internal/network"
)

// TestAnswers is the table of what upstream may say, and what the guest gets of it.
func TestAnswers(t *testing.T) {
	hints := func(k dnsmessage.SVCParamKey, v ...byte) dnsmessage.Resource {
		return record("a.example.", 60, &dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{Priority: 1, Target: dnsmessage.MustNewName("."), Params: []dnsmessage.SVCParam{{Key: k, Value: v}}}})
	}
	soa := record("example.", 900, &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("ns.example."), MBox: dnsmessage.MustNewName("m.example.")})
	for _, c := range []struct {
		name   string
		of     dnsmessage.Type
		egress []string
		up     []dnsmessage.Resource
		want   int // answers; -1: the answer is dropped
	}{
		{"public", dnsmessage.TypeA, nil, []dnsmessage.Resource{address("a.example.", 60, "93.184.215.14")}, 1},
		{"an alias", dnsmessage.TypeA, nil, []dnsmessage.Resource{alias("a.example.", "b.example."), alias("b.example.", "c.example."), address("c.example.", 60, "93.184.215.14")}, 3},
		{"an alias in any order", dnsmessage.TypeA, nil, []dnsmessage.Resource{address("b.example.", 60, "93.184.215.14"), alias("a.example.", "b.example.")}, 2},
		{"aliases in a circle", dnsmessage.TypeA, nil, []dnsmessage.Resource{alias("a.example.", "b.example."), alias("b.example.", "a.example.")}, 1},
		{"a name that nobody asked for", dnsmessage.TypeA, nil, []dnsmessage.Resource{address("bank.example.", 60, "93.184.215.14")}, 0},
		{"another name beside it", dnsmessage.TypeA, nil, []dnsmessage.Resource{address("a.example.", 60, "93.184.215.14"), address("bank.example.", 60, "10.0.0.1")}, 1},
		{"private", dnsmessage.TypeA, nil, []dnsmessage.Resource{address("a.example.", 60, "10.0.5.7")}, -1},
		{"private behind an alias", dnsmessage.TypeA, nil, []dnsmessage.Resource{alias("a.example.", "b.example."), address("b.example.", 60, "192.168.1.1")}, -1},
		{"private beside public", dnsmessage.TypeA, nil, []dnsmessage.Resource{address("a.example.", 60, "93.184.215.14"), address("a.example.", 60, "10.0.5.7")}, -1},
		{"private and allowed", dnsmessage.TypeA, []string{"10.0.5.0/24:443"}, []dnsmessage.Resource{address("a.example.", 60, "10.0.5.7")}, 1},
		{"private, and another is allowed", dnsmessage.TypeA, []string{"10.0.5.0/24"}, []dnsmessage.Resource{address("a.example.", 60, "10.0.6.7")}, -1},
		{"carrier", dnsmessage.TypeA, nil, []dnsmessage.Resource{address("a.example.", 60, "100.64.0.1")}, -1},
		{"metadata", dnsmessage.TypeA, []string{"0.0.0.0/0"}, []dnsmessage.Resource{address("a.example.", 60, "169.254.169.254")}, -1},
		{"loopback", dnsmessage.TypeA, []string{"0.0.0.0/0"}, []dnsmessage.Resource{address("a.example.", 60, "127.0.0.1")}, -1},
		{"no address", dnsmessage.TypeA, nil, []dnsmessage.Resource{address("a.example.", 60, "0.0.0.0")}, -1},
		{"multicast", dnsmessage.TypeA, []string{"0.0.0.0/0"}, []dnsmessage.Resource{address("a.example.", 60, "224.0.0.1")}, -1},
		{"another tenant", dnsmessage.TypeA, []string{"0.0.0.0/0"}, []dnsmessage.Resource{address("a.example.", 60, "10.240.3.3")}, -1},
		{"the host", dnsmessage.TypeA, []string{"0.0.0.0/0"}, []dnsmessage.Resource{address("a.example.", 60, "198.51.100.1")}, -1},
		{"the host, IPv6", dnsmessage.TypeAAAA, nil, []dnsmessage.Resource{address("a.example.", 60, "2606:4700::99")}, -1},
		{"public, IPv6", dnsmessage.TypeAAAA, nil, []dnsmessage.Resource{address("a.example.", 60, "2606:4700::1")}, 1},
		{"NAT64 of a public one", dnsmessage.TypeAAAA, nil, []dnsmessage.Resource{address("a.example.", 60, "64:ff9b::5db8:d70e")}, 1},
		{"hints, public", dnsmessage.TypeHTTPS, nil, []dnsmessage.Resource{hints(dnsmessage.SVCParamIPv4Hint, 93, 184, 215, 14)}, 1},
		{"hints, private", dnsmessage.TypeHTTPS, nil, []dnsmessage.Resource{hints(dnsmessage.SVCParamIPv4Hint, 93, 184, 215, 14, 10, 0, 5, 7)}, -1},
		{"hints, private, IPv6", dnsmessage.TypeHTTPS, nil, []dnsmessage.Resource{hints(dnsmessage.SVCParamIPv6Hint, netip.MustParseAddr("fd00::1").AsSlice()...)}, -1},
		{"hints, cut off", dnsmessage.TypeHTTPS, nil, []dnsmessage.Resource{hints(dnsmessage.SVCParamIPv4Hint, 93, 184, 215, 14, 10, 0)}, -1},
		{"text", dnsmessage.TypeTXT, nil, []dnsmessage.Resource{record("a.example.", 60, &dnsmessage.TXTResource{TXT: []string{"10.0.0.1"}})}, 1},
		{"nothing", dnsmessage.TypeA, nil, nil, 0},
		{"start of authority among the answers", dnsmessage.TypeA, nil, []dnsmessage.Resource{soa}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.egress...)
			w.up.says(func(m dnsmessage.Message, _ bool) [][]byte {
				m.Response, m.Answers, m.Authorities = true, c.up, []dnsmessage.Resource{soa, address("ns.example.", 60, "10.0.0.2")}
				m.Additionals = []dnsmessage.Resource{address("ns.example.", 60, "10.0.0.2")}
				return [][]byte{packed(m)}
			})
			m := w.ask("a.example.", c.of)
			if c.want < 0 {
				if len(m.Answers) != 0 || m.RCode != dnsmessage.RCodeSuccess || extra(m) != 15 || w.count("dropped") != 1 {
					t.Errorf("got %+v, want an empty answer that says why", m)
				}
				return
			}
			if len(m.Answers) != c.want || m.RCode != dnsmessage.RCodeSuccess || extra(m) != 0 || w.count("answered") != 1 {
				t.Errorf("got %+v, want %d answers", m, c.want)
			}
			if c.want == 0 && (len(m.Authorities) != 1 || m.Authorities[0].Header.TTL != 900) || c.want > 0 && len(m.Authorities) > 0 {
				t.Errorf("authorities %+v, want for how long there is nothing, and nothing else", m.Authorities)
			}
			if len(m.Additionals) != 1 {
				t.Errorf("additional records %+v, want EDNS alone", m.Additionals)
			}
		})
	}
}

// TestForms6 has the forms of IPv6 addresses that lead to a closed one.
func TestForms6(t *testing.T) {
	w := newWorld(t, "10.0.5.0/24")
	for _, a := range []string{"::1", "::", "fe80::1", "fec0::1", "fd00::1", "fc00::1", "ff02::1", "::ffff:192.168.1.1", "::ffff:169.254.169.254", "::192.168.1.1",
		"64:ff9b::c0a8:101", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "::ffff:0:c0a8:101", "2002:c0a8:101::1", "2001:0:c0a8:101::1", "2001:0:808:808:0:0:3f57:fefe",
		"2606:4700::5efe:c0a8:101", "2606:4700::200:5efe:c0a8:101", "2001:db8::1", "100::1"} {
		w.up.says(with(address("a.example.", 60, a)))
		if m := w.ask("a.example.", dnsmessage.TypeAAAA); len(m.Answers) > 0 || extra(m) != 15 {
			t.Errorf("%s: got %v, want it dropped", a, answered(m))
		}
	}
	for _, a := range []string{"::ffff:10.0.5.7", "2606:4700::1", "2002:808:808::1"} {
		w.up.says(with(address("a.example.", 60, a)))
		if m := w.ask("a.example.", dnsmessage.TypeAAAA); len(m.Answers) != 1 {
			t.Errorf("%s: got %+v, want it answered", a, m)
		}
	}
}

// TestRebinding: the name leads to a public address first, and then to a private one.
func TestRebinding(t *testing.T) {
	w := newWorld(t, "rebind.example")
	w.up.says(with(address("rebind.example.", 0, "93.184.215.14")))
	if m := w.ask("rebind.example.", dnsmessage.TypeA); !slices.Equal(answered(m), []string{"93.184.215.14"}) {
		t.Errorf("first: %+v", m)
	}
	for _, to := range []string{"10.0.0.1", "127.0.0.1", "169.254.169.254"} {
		w.up.says(with(address("rebind.example.", 0, to)))
		if m := w.ask("rebind.example.", dnsmessage.TypeA); len(m.Answers) != 0 {
			t.Errorf("then: %v", answered(m))
		}
	}
	if open, _, _ := w.open(); !slices.Equal(open, []string{"93.184.215.14"}) {
		t.Errorf("open: %v", open)
	}
	found := w.r.Findings()
	if len(found) != 1 || !strings.Contains(found[0].What, `"rebind.example"`) || found[0].Where != "acme/i-00000003" {
		t.Errorf("findings: %+v", found)
	}
}

// TestNames: names that egress has are answered, and open before the answer is there; others
// are refused, and nobody upstream is asked for them.
func TestNames(t *testing.T) {
	w := newWorld(t, "api.example.com", "*.cdn.example", "10.0.5.0/24")
	w.up.says(func(m dnsmessage.Message, _ bool) [][]byte {
		name := m.Questions[0].Name.String()
		return with(alias(name, "edge.other.example."), address("edge.other.example.", 7200, "93.184.215.14"), address("edge.other.example.", 30, "93.184.215.15"))(m, false)
	})
	for _, name := range []string{"example.com.", "x.api.example.com.", "cdn.example.", "edge.other.example.", "secret-data.attacker.example.", "."} {
		m := w.ask(name, dnsmessage.TypeA)
		if m.RCode != dnsmessage.RCodeRefused || extra(m) != 18 || len(m.Answers) > 0 {
			t.Errorf("%s: got %+v, want it refused, with the reason", name, m)
		}
	}
	if q := w.up.questions(); len(q) > 0 {
		t.Errorf("upstream was asked: %+v", q)
	}
	if open, _, _ := w.open(); len(open) > 0 {
		t.Errorf("%v are open", open)
	}
	m := w.ask("API.example.com.", dnsmessage.TypeA)
	if len(m.Answers) != 3 || m.Answers[1].Header.TTL != 3600 || m.Questions[0].Name.String() != "API.example.com." {
		t.Errorf("got %+v, want the alias and two addresses for an hour at most", m)
	}
	addrs, by, calls := w.open()
	if !slices.Equal(addrs, []string{"93.184.215.14", "93.184.215.15"}) || by[netip.MustParseAddr("93.184.215.15")].For < time.Hour {
		t.Errorf("open: %v", by)
	}
	w.ask("a.cdn.example.", dnsmessage.TypeA)
	if _, _, again := w.open(); again != calls {
		t.Error("what is open for long enough is opened again")
	}
	w.up.says(with(record("api.example.com.", 60, &dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{Priority: 1, Target: dnsmessage.MustNewName("."),
		Params: []dnsmessage.SVCParam{{Key: dnsmessage.SVCParamIPv4Hint, Value: []byte{93, 184, 215, 16}}}}})))
	w.ask("api.example.com.", dnsmessage.TypeHTTPS)
	if addrs, _, _ := w.open(); !slices.Contains(addrs, "93.184.215.16") {
		t.Errorf("the address of a hint is not open: %v", addrs)
	}
	w.up.says(with(address("api.example.com.", 60, "10.0.5.9")))
	if m := w.ask("api.example.com.", dnsmessage.TypeA); !slices.Equal(answered(m), []string{"10.0.5.9"}) {
		t.Errorf("a name that leads where a range is allowed: %+v", m)
	}

	found := w.r.Findings()
	if len(found) != 6 || !strings.Contains(found[5].What, "1 more") {
		t.Errorf("6 names that were refused make %+v, want five and how many more", found)
	}
}

// TestOpenBeforeTheAnswer: the answer waits until its addresses are open, and so does the
// next one that has them.
func TestOpenBeforeTheAnswer(t *testing.T) {
	w := newWorld(t, "api.example.com")
	w.up.says(with(address("api.example.com.", 60, "93.184.215.14")))
	w.stalls = make(chan struct{})
	got := make(chan []byte, 2)
	var asked sync.WaitGroup
	for range 2 {
		c := w.dial("udp", guestIP)
		_, err := c.Write(asking(5, question("api.example.com.", dnsmessage.TypeA)))
		must(t, err)
		asked.Go(func() {
			defer c.Close()
			b := make([]byte, 2000)
			n, _ := c.Read(b)
			got <- b[:n]
		})
	}
	for deadline := time.Now().Add(time.Minute); len(w.up.questions()) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("upstream was not asked")
		}
	}
	select {
	case b := <-got:
		t.Error("an answer is there, and nothing is open")
		got <- b
	case <-time.After(50 * time.Millisecond):
	}
	close(w.stalls)
	asked.Wait()
	for range 2 {
		if m := w.read(<-got, 5); len(m.Answers) != 1 {
			t.Errorf("got %+v", m)
		}
	}
	if _, _, calls := w.open(); calls != 1 {
		t.Errorf("two answers with one address opened it %d times", calls)
	}
}

// TestEgressChanges: names that are taken away are closed, and those that stay are opened
// again after the change. What was open when a guest slept is opened when it wakes.
func TestEgressChanges(t *testing.T) {
	w := newWorld(t, "a.example.com", "b.example.com")
	for name, to := range map[string]string{"a.example.com.": "93.184.215.14", "b.example.com.": "93.184.215.15"} {
		w.up.says(with(address(name, 60, to)))
		w.ask(name, dnsmessage.TypeA)
	}
	forget := func() { w.mu.Lock(); clear(w.admitted); w.mu.Unlock() }
	want := func(when string, want ...string) {
		t.Helper()
		if open, _, _ := w.open(); !slices.Equal(open, want) {
			t.Errorf("%s: open %v, want %v", when, open, want)
		}
	}
	refused := func(when string, want int) {
		t.Helper()
		if found := w.r.Findings(); len(found) != want {
			t.Errorf("%s: it was refused %+v, want %d", when, found, want)
		}
	}
	want("at first", "93.184.215.14", "93.184.215.15")
	w.ask("other.example.", dnsmessage.TypeA)
	refused("at first", 1)
	forget()
	w.egress("a.example.com", "c.example.com")
	want("with another list", "93.184.215.14")
	refused("with another list", 1)
	forget()
	w.r.Applied(t.Context())
	want("with the same list")
	w.r.Woke(t.Context(), "acme", "i-00000004")
	want("the neighbour woke")
	w.r.Woke(t.Context(), "acme", "i-00000003")
	want("awake again", "93.184.215.14")
	forget()
	w.cfg.Tenants[0].Instances[0].ID = "i-00000009"
	w.r.Follow(w.cfg)
	w.r.Applied(t.Context())
	w.r.Woke(t.Context(), "acme", "i-00000009")
	want("another instance at the address")
	refused("another instance at the address", 0)
}

// TestUpstream has the ways in which upstream can be wrong.
func TestUpstream(t *testing.T) {
	good := address("a.example.", 60, "93.184.215.14")
	change := func(f func(m *dnsmessage.Message)) func(dnsmessage.Message, bool) [][]byte {
		return func(m dnsmessage.Message, _ bool) [][]byte {
			m.Response, m.Answers, m.Additionals = true, []dnsmessage.Resource{address("a.example.", 60, "93.184.215.66")}, nil
			bad := m
			f(&bad)
			m.Answers = []dnsmessage.Resource{good}
			return [][]byte{packed(bad), packed(m)} // the wrong one is faster
		}
	}
	for name, f := range map[string]func(m *dnsmessage.Message){
		"another id": func(m *dnsmessage.Message) { m.ID++ },
		"a question": func(m *dnsmessage.Message) { m.Response = false },
		"another name": func(m *dnsmessage.Message) {
			m.Questions = []dnsmessage.Question{question("b.example.", dnsmessage.TypeA)}
		},
		"another type": func(m *dnsmessage.Message) {
			m.Questions = []dnsmessage.Question{question("a.example.", dnsmessage.TypeTXT)}
		},
		"no question":      func(m *dnsmessage.Message) { m.Questions = nil },
		"two questions":    func(m *dnsmessage.Message) { m.Questions = append(slices.Clone(m.Questions), m.Questions[0]) },
		"another opcode":   func(m *dnsmessage.Message) { m.OpCode = 5 },
		"an empty message": func(m *dnsmessage.Message) { *m = dnsmessage.Message{} },
	} {
		w := newWorld(t)
		w.up.says(change(f))
		if m := w.ask("a.example.", dnsmessage.TypeA); !slices.Equal(answered(m), []string{"93.184.215.14"}) {
			t.Errorf("%s: the guest gets %+v, want the true answer", name, m)
		}
	}
	w := newWorld(t)
	w.up.says(func(m dnsmessage.Message, tcp bool) [][]byte {
		m.Response, m.Additionals, m.Truncated = true, nil, !tcp
		for n := range 200 {
			m.Answers = append(m.Answers, address("a.example.", 60, fmt.Sprintf("93.184.215.%d", n)))
		}
		if !tcp {
			m.Answers = m.Answers[:1]
		}
		return [][]byte{packed(m)}
	})
	if m := w.ask("a.example.", dnsmessage.TypeA); !m.Truncated || len(m.Answers) != 0 {
		t.Errorf("an answer that is too long for UDP: %d answers, truncated %t", len(m.Answers), m.Truncated)
	}
	c := w.dial("tcp", guestIP)
	defer c.Close()
	for range 2 {
		b, err := w.askTCP(c, asking(9, question("a.example.", dnsmessage.TypeA)))
		must(t, err)
		if m := w.read(b, 9); len(m.Answers) != 200 || m.Truncated {
			t.Errorf("by TCP: %d answers, truncated %t", len(m.Answers), m.Truncated)
		}
	}
	for _, q := range w.up.questions() {
		if len(q.Questions) != 1 || !q.RecursionDesired || len(q.Additionals) != 1 {
			t.Errorf("upstream was asked %+v", q)
		}
	}
	for _, code := range []dnsmessage.RCode{dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused} {
		w.up.says(func(m dnsmessage.Message, _ bool) [][]byte {
			m.Response, m.RCode, m.Additionals = true, code, nil
			return [][]byte{packed(m)}
		})
		if m := w.ask("a.example.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure || extra(m) != 22 {
			t.Errorf("upstream says %v: the guest gets %+v", code, m)
		}
	}
	w.up.says(func(m dnsmessage.Message, _ bool) [][]byte {
		m.Response, m.RCode, m.Additionals = true, dnsmessage.RCodeNameError, nil
		return [][]byte{packed(m)}
	})
	if m := w.ask("a.example.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("a name that is not there: %+v", m)
	}
	w.up.says(nil)
	if m := w.ask("a.example.", dnsmessage.TypeA); m.RCode != dnsmessage.RCodeServerFailure || extra(m) != 22 {
		t.Errorf("upstream hangs: the guest gets %+v, want it told", m)
	}
}

// TestQuestions has what a guest may send, and what it gets.
func TestQuestions(t *testing.T) {
	w := newWorld(t)
	w.up.says(with(address("a.example.", 60, "93.184.215.14")))
	good := asking(7, question("a.example.", dnsmessage.TypeA))
	edit := func(f func(b []byte) []byte) []byte { return f(slices.Clone(good)) }
	head := func(of dnsmessage.Type, class dnsmessage.Class) []byte {
		q := question("a.example.", of)
		q.Class = class
		return asking(7, q)
	}
	pointers := append([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 0xc0, 12, 0, 1, 0, 1) // a name that points at itself
	for name, c := range map[string]struct {
		b    []byte
		code int // -1: no answer
	}{
		"good":                  {good, 0},
		"nothing":               {nil, -1},
		"a byte":                {[]byte{1}, -1},
		"an answer":             {edit(func(b []byte) []byte { b[2] |= 0x80; return b }), -1},
		"too long":              {append(slices.Clone(good), make([]byte, 1300)...), -1},
		"an update":             {edit(func(b []byte) []byte { b[2] |= 5 << 3; return b }), 4},
		"a pointer in a circle": {pointers, 1},
		"no question":           {edit(func(b []byte) []byte { b[5] = 0; return b[:12] }), 1},
		"two questions":         {edit(func(b []byte) []byte { b[5] = 2; return b }), 1},
		"65535 questions":       {edit(func(b []byte) []byte { b[4], b[5] = 255, 255; return b }), 1},
		"65535 records":         {edit(func(b []byte) []byte { b[10], b[11] = 255, 255; return b }), 1},
		"an answer in it":       {edit(func(b []byte) []byte { b[7] = 1; return b }), 1},
		"cut off":               {good[:20], 1},
		"everything there is":   {head(255, dnsmessage.ClassINET), 4},
		"a zone":                {head(252, dnsmessage.ClassINET), 4},
		"another class":         {head(dnsmessage.TypeA, dnsmessage.ClassCHAOS), 4},
	} {
		c0 := w.dial("udp", guestIP)
		_, err := c0.Write(c.b)
		must(t, err)
		if c.code < 0 {
			if len(c.b) > 0 {
				_, err = c0.Write(good) // what comes is the answer to this one
				must(t, err)
			} else {
				_, err = c0.Write(good)
				must(t, err)
			}
		}
		b := make([]byte, 2000)
		n, err := c0.Read(b)
		must(t, err)
		m := w.read(b[:n], 7)
		if int(m.RCode) != max(c.code, 0) {
			t.Errorf("%s: got %v, want %d", name, m.RCode, c.code)
		}
		c0.Close()
	}
	plain := packed(dnsmessage.Message{Header: dnsmessage.Header{ID: 8}, Questions: []dnsmessage.Question{question("a.example.", dnsmessage.TypeA)}})
	c := w.dial("udp", guestIP)
	defer c.Close()
	_, err := c.Write(plain)
	must(t, err)
	b := make([]byte, 2000)
	n, err := c.Read(b)
	must(t, err)
	if m := w.read(b[:n], 8); len(m.Additionals) > 0 || m.RecursionDesired {
		t.Errorf("a question without EDNS is answered with it: %+v", m)
	}
}

// TestBounds: a guest that asks too much is not answered, and its neighbour is. Nobody else is
// heard at all.
func TestBounds(t *testing.T) {
	w := newWorld(t)
	w.up.says(with(address("a.example.", 60, "93.184.215.14")))
	c, stranger := w.dial("udp", guestIP), w.dial("udp", netip.MustParseAddr("127.9.0.77"))
	defer c.Close()
	defer stranger.Close()
	for range 10 {
		_, err := stranger.Write(asking(3, question("stranger.example.", dnsmessage.TypeA)))
		must(t, err)
	}
	for n := range 2000 {
		if _, err := c.Write(asking(uint16(n), question("a.example.", dnsmessage.TypeA))); err != nil {
			t.Fatal(err)
		}
	}
	w.counted("limited", 1)
	next := w.dial("udp", neighbour)
	defer next.Close()
	for answered := false; !answered; { // until there is room in the socket's queue
		_, err := next.Write(asking(4, question("a.example.", dnsmessage.TypeA)))
		must(t, err)
		must(t, next.SetReadDeadline(time.Now().Add(time.Second)))
		b := make([]byte, 2000)
		n, err := next.Read(b)
		if answered = err == nil; answered {
			w.read(b[:n], 4)
		}
	}
	for _, q := range w.up.questions() {
		if q.Questions[0].Name.String() == "stranger.example." {
			t.Error("a stranger was heard")
		}
	}
}

// TestSlowConnections: a guest that is slow holds a few connections for a few seconds, and no
// more; its neighbour and UDP go on.
func TestSlowConnections(t *testing.T) {
	w := newWorld(t)
	w.up.says(with(address("a.example.", 60, "93.184.215.14")))
	var slow []net.Conn
	for range 4 {
		c := w.dial("tcp", guestIP)
		defer c.Close()
		_, err := c.Write([]byte{0}) // half of a length
		must(t, err)
		slow = append(slow, c)
	}
	// Connections are accepted in their order, but served beside each other.
	for closed := false; !closed; {
		c := w.dial("tcp", guestIP)
		if _, err := w.askTCP(c, asking(6, question("a.example.", dnsmessage.TypeA))); err != nil {
			closed = true
		}
		c.Close()
	}
	c := w.dial("tcp", neighbour)
	defer c.Close()
	if _, err := w.askTCP(c, asking(6, question("a.example.", dnsmessage.TypeA))); err != nil {
		t.Errorf("the neighbour: %v", err)
	}
	if m := w.ask("a.example.", dnsmessage.TypeA); len(m.Answers) != 1 {
		t.Errorf("by UDP: %+v", m)
	}
	for _, s := range slow {
		if _, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a slow connection is not closed: %v", err)
		}
	}
}

// TestPortTaken: a port that somebody else has is told, once, and taken when it is free.
func TestPortTaken(t *testing.T) {
	w := newWorld(t)
	w.taken = errors.New("address already in use")
	w.cfg.Tenants = append(w.cfg.Tenants, network.Tenant{ID: "zeta", NetID: 1, Subnet: netip.MustParsePrefix("127.9.1.0/24"), Closed: true})
	w.r.Follow(w.cfg)
	for n, want := range []bool{true, false} {
		if changed := w.r.Applied(t.Context()); changed != want {
			t.Errorf("try %d: changed %t, want %t", n, changed, want)
		}
	}
	if w.r.Serves("zeta") || !w.r.Serves("acme") {
		t.Error("the tenant whose port is taken is served, or the other is not")
	}
	if found := w.r.Findings(); len(found) != 1 || found[0].Severity != "error" || found[0].Where != "zeta" || !strings.Contains(found[0].What, "already in use") {
		t.Errorf("findings: %+v", found)
	}
	w.mu.Lock()
	w.taken = nil
	w.mu.Unlock()
	if !w.r.Applied(t.Context()) || !w.r.Serves("zeta") || len(w.r.Findings()) > 0 {
		t.Error("the port is free, and it is not listened at")
	}
	w.cfg.Tenants = nil
	w.r.Follow(w.cfg)
	c := w.dial("udp", guestIP)
	defer c.Close()
	_, _ = c.Write(asking(1, question("a.example.", dnsmessage.TypeA)))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a tenant that is gone is answered")
	}
}

// more gives the tenant so many guests beside the two, whose addresses begin at 127.9.0.10.
func (w *world) more(n int) (out []netip.Addr) {
	w.t.Helper()
	of := &w.cfg.Tenants[0]
	for k := range n {
		of.Instances = append(of.Instances, network.Instance{ID: fmt.Sprintf("i-000000%02x", 10+k), Offset: 10 + k})
		out = append(out, netip.AddrFrom4([4]byte{127, 9, 0, byte(10 + k)}))
	}
	w.r.Follow(w.cfg)
	w.r.Applied(w.t.Context())
	return out
}

// TestNeighboursKeepTheirOwn: guests that take all the connections and questions that their tenant
// may have leave each neighbour a connection, and questions on it.
func TestNeighboursKeepTheirOwn(t *testing.T) {
	w := newWorld(t)
	w.up.says(with(address("a.example.", 60, "93.184.215.14")))
	ask := asking(6, question("a.example.", dnsmessage.TypeA))
	flooding := w.more(14)
	for _, g := range flooding {
		for range 4 {
			c := w.dial("tcp", g)
			defer c.Close()
			// One that is refused is closed before it is answered, or is open and has its answer.
			_, _ = w.askTCP(c, ask)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer func() { close(stop); wg.Wait() }()
	for _, g := range flooding {
		c := w.dial("udp", g)
		wg.Go(func() {
			defer c.Close()
			for n := 0; ; n++ {
				_, _ = c.Write(ask)
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(n/300) * time.Millisecond): // its burst at once
				}
			}
		})
	}
	w.counted("limited", 2000)
	c := w.dial("tcp", neighbour)
	defer c.Close()
	for n := range 15 {
		if _, err := w.askTCP(c, ask); err != nil {
			t.Fatalf("question %d of the neighbour: %v", n, err)
		}
	}
}
