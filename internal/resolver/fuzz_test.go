package resolver

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func corpus(f *testing.F) {
	name := dnsmessage.MustNewName("a.example.")
	q := dnsmessage.Question{Name: name, Type: dnsmessage.TypeHTTPS, Class: dnsmessage.ClassINET}
	ask, _ := query{asks: []dnsmessage.Question{q}}.ask(7)
	h := func(t dnsmessage.Type) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: name, Type: t, Class: dnsmessage.ClassINET, TTL: 1<<31 + 1}
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, Response: true}, Questions: []dnsmessage.Question{q}, Answers: []dnsmessage.Resource{
		{Header: h(dnsmessage.TypeCNAME), Body: &dnsmessage.CNAMEResource{CNAME: name}},
		{Header: h(dnsmessage.TypeHTTPS), Body: &dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{Priority: 1, Target: name, Params: []dnsmessage.SVCParam{
			{Key: dnsmessage.SVCParamIPv4Hint, Value: []byte{10, 0, 0, 1}}, {Key: dnsmessage.SVCParamIPv6Hint, Value: make([]byte, 17)}}}}},
		{Header: h(257), Body: &dnsmessage.UnknownResource{Type: 257, Data: []byte{0}}}}}
	reply, _ := m.Pack()
	for _, b := range [][]byte{ask, reply, nil, {0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}, {0, 7, 0x81, 0, 0, 1, 255, 255, 0, 0, 0, 0, 0, 0, 65, 0, 1}} {
		f.Add(b)
	}
}

// FuzzQuery: whatever a guest sends, what is answered is a message that it can read, and not
// longer than it may be.
func FuzzQuery(f *testing.F) {
	corpus(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		q, code, ok := readQuery(b)
		if !ok {
			return
		}
		out := q.pack(reply{code: code}, extra{edeBlocked, "because"}, q.size)
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil || m.ID != q.id || !m.Response || len(out) > q.size {
			t.Fatalf("the answer to %x is %x: %v", b, out, err)
		}
		if code == 0 {
			if _, err := q.ask(1); err != nil {
				t.Fatalf("%x can't be asked upstream: %v", b, err)
			}
		}
	})
}

// FuzzReply: whatever upstream sends, the guest gets what belongs to its question, in a
// message that it can read; and each address in it was looked at.
func FuzzReply(f *testing.F) {
	corpus(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		name := dnsmessage.MustNewName("a.example.")
		for _, of := range types {
			q := query{id: 7, edns: true, size: maxUDP, name: "a.example", asks: []dnsmessage.Question{{Name: name, Type: of, Class: dnsmessage.ClassINET}}}
			r, err := readReply(b, 7, q)
			if err != nil {
				continue
			}
			out := q.pack(r, extra{}, 1<<16-1)
			var m dnsmessage.Message
			if err := m.Unpack(out); err != nil || len(m.Answers) > maxRecords || len(out) > 1<<16-1 {
				t.Fatalf("%x makes an answer that can't be read: %v", b, err)
			}
			seen := map[string]bool{}
			for _, a := range r.addrs {
				seen[a.String()] = true
			}
			for _, a := range m.Answers {
				for _, to := range addresses(a.Body) {
					if !seen[to.String()] {
						t.Fatalf("%x leads to %s, which nobody looked at", b, to)
					}
				}
				if a.Header.TTL > maxTTL {
					t.Fatalf("%x may be kept for %d s", b, a.Header.TTL)
				}
			}
		}
	})
}
