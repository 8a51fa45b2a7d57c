package resolver

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of messages, in bytes and numbers.
const (
	maxQuery   = 1232  // no honest question comes near it
	maxUDP     = 1232  // of an answer by UDP, as DNS Flag Day 2020 recommends
	plainUDP   = 512   // where the guest offers no EDNS (RFC 1035)
	maxReply   = 16384 // of an answer of upstream, by TCP
	maxRecords = 256
	maxChain   = 16 // aliases that follow each other
	maxTTL     = 3600
)

// types are those of questions that are answered. The numbers, LOC, NAPTR, DS, SSHFP, DNSKEY,
// TLSA and CAA, are passed on as they are: they name no address, and no name in them is
// compressed (RFC 3597).
var types = []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeCNAME, dnsmessage.TypeMX, dnsmessage.TypeNS,
	dnsmessage.TypePTR, dnsmessage.TypeSOA, dnsmessage.TypeSRV, dnsmessage.TypeTXT, dnsmessage.TypeSVCB, dnsmessage.TypeHTTPS,
	29, 35, 43, 44, 48, 52, 257}

// Codes of the Extended DNS Errors that are used (RFC 8914).
const (
	edeBlocked     = 15
	edeProhibited  = 18
	edeUnreachable = 22
)

// query is a guest's question.
type query struct {
	id      uint16
	recurse bool
	asks    []dnsmessage.Question // one; none where it could not be read
	name    string                // in lower case, without the dot at its end
	edns    bool
	size    int // of the largest answer by UDP
}

// readQuery reads a question. One that ok is false for is no question, and has no answer;
// one with a code is answered with that.
func readQuery(b []byte) (q query, code dnsmessage.RCode, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.Response {
		return q, 0, false
	}
	q = query{id: h.ID, recurse: h.RecursionDesired, size: plainUDP}
	if h.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented, true
	}
	ask, err := p.Question()
	if err != nil {
		return q, dnsmessage.RCodeFormatError, true
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return q, dnsmessage.RCodeFormatError, true
	}
	q.asks, q.name = []dnsmessage.Question{ask}, plain(ask.Name)
	if !q.readRest(&p) {
		return q, dnsmessage.RCodeFormatError, true
	}
	if ask.Class != dnsmessage.ClassINET || !slices.Contains(types, ask.Type) {
		return q, dnsmessage.RCodeNotImplemented, true
	}
	return q, 0, true
}

// readRest reads what follows the question: at most EDNS, and a few records beside it.
func (q *query) readRest(p *dnsmessage.Parser) bool {
	if _, err := p.AnswerHeader(); !errors.Is(err, dnsmessage.ErrSectionDone) || p.SkipAllAnswers() != nil {
		return false
	}
	if _, err := p.AuthorityHeader(); !errors.Is(err, dnsmessage.ErrSectionDone) || p.SkipAllAuthorities() != nil {
		return false
	}
	for range 4 {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return true
		}
		if err != nil || h.Type == dnsmessage.TypeOPT && (q.edns || h.TTL>>16&0xff != 0) || p.SkipAdditional() != nil {
			return false
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns, q.size = true, min(max(int(h.Class), plainUDP), maxUDP)
		}
	}
	return false
}

// plain is a name in lower case, without the dot at its end. Letters beyond ASCII stay as they
// are (RFC 4343): the Kelvin sign is no k.
func plain(n dnsmessage.Name) string {
	b := []byte(strings.TrimSuffix(n.String(), "."))
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// ask is the question as it goes upstream: with nothing of the guest's but name and type.
func (q query) ask(id uint16) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	var h dnsmessage.ResourceHeader
	err := errors.Join(b.StartQuestions(), b.Question(q.asks[0]), b.StartAdditionals(), h.SetEDNS0(maxUDP, 0, false), b.OPTResource(h, dnsmessage.OPTResource{}))
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

// reply is an answer of upstream: what of it belongs to the question.
type reply struct {
	code      dnsmessage.RCode
	answers   []dnsmessage.Resource
	authority []dnsmessage.Resource // says for how long there is nothing
	addrs     []netip.Addr          // that the answers name, in whatever form
	ttl       uint32                // the longest of the answers, in seconds
}

var (
	errOther = errors.New("it is the answer to another question")
	errCut   = errors.New("it is cut off")
)

// readReply reads an answer of upstream to the question. errOther: somebody else made it, or
// it is too late. errCut: it is too long for UDP.
func readReply(b []byte, id uint16, q query) (r reply, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.ID != id || h.OpCode != 0 {
		return r, errOther
	}
	ask, err := p.Question()
	if err != nil || ask.Class != q.asks[0].Class || ask.Type != q.asks[0].Type || plain(ask.Name) != q.name {
		return r, errOther
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return r, errOther
	}
	if h.Truncated {
		return r, errCut
	}
	r.code = h.RCode
	all, err := section(p.Answer)
	if err != nil {
		return r, err
	}
	r.take(all, q)
	if len(r.answers) > 0 {
		return r, nil
	}
	all, err = section(p.Authority)
	for _, a := range all {
		if _, ok := a.Body.(*dnsmessage.SOAResource); ok && r.authority == nil && within(q.name, plain(a.Header.Name)) {
			r.authority = []dnsmessage.Resource{capped(a)}
		}
	}
	return r, err
}

func within(name, zone string) bool {
	return zone == "" || name == zone || strings.HasSuffix(name, "."+zone)
}

func section(next func() (dnsmessage.Resource, error)) (all []dnsmessage.Resource, err error) {
	for range maxRecords {
		a, err := next()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return nil, errors.New("it has too many records")
}

// take keeps the records of the type that was asked for, of the name and its aliases, and the
// aliases. Everything else is dropped: nobody asked for it.
func (r *reply) take(all []dnsmessage.Resource, q query) {
	names, at := []string{q.name}, q.name
	for next := true; next && len(names) <= maxChain; {
		next = false
		for _, a := range all {
			c, ok := a.Body.(*dnsmessage.CNAMEResource)
			if ok && !next && q.asks[0].Type != dnsmessage.TypeCNAME && plain(a.Header.Name) == at && !slices.Contains(names, plain(c.CNAME)) {
				at, next = plain(c.CNAME), true
				names = append(names, at)
				r.answers = append(r.answers, capped(a))
			}
		}
	}
	for _, a := range all {
		if a.Header.Type == q.asks[0].Type && a.Header.Class == dnsmessage.ClassINET && slices.Contains(names, plain(a.Header.Name)) {
			r.answers = append(r.answers, capped(a))
			r.addrs = append(r.addrs, addresses(a.Body)...)
		}
	}
	for _, a := range r.answers {
		r.ttl = max(r.ttl, a.Header.TTL)
	}
}

// capped bounds for how long a record may be kept.
func capped(a dnsmessage.Resource) dnsmessage.Resource {
	if a.Header.TTL > 1<<31 { // RFC 2181
		a.Header.TTL = 0
	}
	a.Header.TTL = min(a.Header.TTL, maxTTL)
	return a
}

// addresses are those that a record names.
func addresses(body dnsmessage.ResourceBody) (out []netip.Addr) {
	switch v := body.(type) {
	case *dnsmessage.AResource:
		return []netip.Addr{netip.AddrFrom4(v.A)}
	case *dnsmessage.AAAAResource:
		return []netip.Addr{netip.AddrFrom16(v.AAAA)}
	case *dnsmessage.SVCBResource:
		return hints(v)
	case *dnsmessage.HTTPSResource:
		return hints(&v.SVCBResource)
	}
	return nil
}

// hints are the addresses in a service's parameters (RFC 9460). What is no whole address is
// taken as one that leads nowhere good.
func hints(v *dnsmessage.SVCBResource) (out []netip.Addr) {
	for _, p := range v.Params {
		size := map[dnsmessage.SVCParamKey]int{dnsmessage.SVCParamIPv4Hint: 4, dnsmessage.SVCParamIPv6Hint: 16}[p.Key]
		if size == 0 {
			continue
		}
		for part := range slices.Chunk(p.Value, size) {
			a, _ := netip.AddrFromSlice(part)
			if len(part) != size {
				a = netip.IPv4Unspecified()
			}
			out = append(out, a)
		}
	}
	return out
}

// extra is an Extended DNS Error; the zero value is none.
type extra struct {
	code uint16
	text string
}

// pack is the answer to the guest, of at most size bytes: a longer one is cut off, and the
// guest asks again by TCP.
func (q query) pack(r reply, e extra, size int) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.id, Response: true, RecursionDesired: q.recurse, RecursionAvailable: true, RCode: r.code},
		Questions: q.asks, Answers: r.answers, Authorities: r.authority}
	if q.edns {
		var h dnsmessage.ResourceHeader
		_ = h.SetEDNS0(maxUDP, r.code, false) // fails for no code of ours
		opt := &dnsmessage.OPTResource{}
		if e.code != 0 {
			opt.Options = []dnsmessage.Option{{Code: 15, Data: append(binary.BigEndian.AppendUint16(nil, e.code), e.text...)}}
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: opt}}
	}
	b, err := m.Pack()
	if err == nil && len(b) <= size {
		return b
	}
	m.Answers, m.Authorities, m.Truncated = nil, nil, true
	if err != nil { // a record that can be read and not written
		m.Truncated, m.RCode = false, dnsmessage.RCodeServerFailure
	}
	b, _ = m.Pack()
	return b
}
