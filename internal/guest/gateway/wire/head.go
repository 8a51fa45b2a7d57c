package wire

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// maxFields bounds the fields of a head.
const maxFields = 1000

// Head is the head of a request, and what it takes to read the next one into the same
// memory.
//
// It is strict (RFC 9112): lines end with CR LF, none is folded, a name is a token that
// the colon follows at once, and there is one way to tell the length of the body. What
// another server may read otherwise is refused, for the gateway stands before one and may
// stand behind one.
type Head struct {
	Req    http.Request
	values []string
	hosts  int
	host   string
	size   int // of its text
	taken  int // from the budget of heads
}

// What a head costs is its text and its fields. What is within freeHead costs no budget.
const (
	freeHead  = 8 << 10
	fieldCost = 112 // a map's entry, a string and a slice of strings
)

// charge takes what the head will cost from the budget, and reports whether that was there.
func (h *Head) charge(budget *Budget, text []byte) bool {
	cost := len(text) + fieldCost*min(bytes.Count(text, newline), maxFields) - freeHead
	if cost <= 0 {
		return true
	}
	if !budget.Take(cost) {
		return false
	}
	h.taken = cost
	return true
}

var newline = []byte{'\n'}

// Free gives back what the head took.
func (h *Head) Free(budget *Budget) {
	if h.taken > 0 {
		budget.Give(h.taken)
		h.taken = 0
	}
}

// Shrink gives back what a large head needed, but for the method.
func (h *Head) Shrink() {
	if h.size <= InboxSize {
		return
	}
	method := http.MethodGet
	if h.Req.Method == http.MethodPost {
		method = http.MethodPost
	}
	*h = Head{Req: http.Request{Method: method}}
}

// Forget has nothing left of the requests but memory for the next ones.
func (h *Head) Forget() {
	fields := h.Req.Header
	if len(fields) > manyFields || h.size > InboxSize {
		fields, h.values = nil, nil
	}
	clear(fields)
	clear(h.values)
	*h = Head{Req: http.Request{Header: fields}, values: h.values[:0]}
}

// manyFields is for how many fields memory is kept.
const manyFields = 64

// badHead refuses a head; the connection ends with it.
func badHead(text string) *Refusal { return Refused(http.StatusBadRequest, 0, "bad request: %s", text) }

// parse reads a head, which is text up to and with the empty line. The error is a *Refusal.
func (h *Head) parse(text string) error {
	fields := h.Req.Header
	if fields == nil {
		fields = http.Header{}
	}
	clear(fields)
	clear(h.values)
	*h = Head{Req: http.Request{Header: fields}, values: h.values[:0], size: len(text), taken: h.taken}
	line, rest, ok := cutLine(text)
	if !ok {
		return badHead("a line does not end with CR LF")
	}
	if err := h.requestLine(line); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if line, rest, ok = cutLine(rest); !ok {
			return badHead("a line does not end with CR LF")
		}
		if line == "" {
			break
		}
		if n == maxFields {
			return Refused(http.StatusRequestHeaderFieldsTooLarge, 0, "the head has more than %d fields", maxFields)
		}
		name, value, ok := parseField(line)
		if !ok {
			return badHead("malformed header")
		}
		h.add(name, value)
	}
	if err := h.setHost(); err != nil {
		return err
	}
	return h.setFraming()
}

// cutLine cuts the first line off, without its end.
func cutLine(text string) (line, rest string, ok bool) {
	n := strings.IndexByte(text, '\n')
	if n < 1 || text[n-1] != '\r' {
		return "", "", false
	}
	return text[:n-1], text[n+1:], true
}

// requestLine reads the first line.
func (h *Head) requestLine(line string) (err error) {
	method, rest, ok := strings.Cut(line, " ")
	target, proto, both := strings.Cut(rest, " ")
	if !ok || !both || !IsToken(method) || target == "" {
		return badHead("malformed request line")
	}
	req := &h.Req
	switch proto {
	case "HTTP/1.1":
		req.ProtoMinor = 1
	case "HTTP/1.0":
	default:
		if _, _, ok := http.ParseHTTPVersion(proto); !ok {
			return badHead("malformed request line")
		}
		return Refused(http.StatusHTTPVersionNotSupported, 0, "%s is not served here: HTTP/1.1 is", proto)
	}
	req.Method, req.RequestURI, req.Proto, req.ProtoMajor = method, target, proto, 1
	authority := method == http.MethodConnect && target[0] != '/'
	if authority {
		target = "http://" + target
	}
	if req.URL, err = url.ParseRequestURI(target); err != nil {
		return badHead("malformed target")
	}
	if authority {
		req.URL.Scheme = ""
	}
	return nil
}

// parseField reads "name: value".
func parseField(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(line, ":")
	if !ok {
		return "", "", false
	}
	if name, ok = canonical(name); !ok {
		return "", "", false
	}
	value = strings.Trim(value, " \t")
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return "", "", false
		}
	}
	return name, value, true
}

// canonical returns a token as net/http spells the names of headers; false where it is no
// token.
func canonical(name string) (string, bool) {
	first, spelled := true, true
	for i := range len(name) {
		c := name[i]
		if c < 64 && tokenLow>>c&1 == 0 || c >= 64 && (c > 127 || tokenHigh>>(c-64)&1 == 0) {
			return "", false
		}
		if first && 'a' <= c && c <= 'z' || !first && 'A' <= c && c <= 'Z' {
			spelled = false
		}
		first = c == '-'
	}
	if !spelled {
		name = textproto.CanonicalMIMEHeaderKey(name)
	}
	return name, name != ""
}

// add adds a field.
func (h *Head) add(name, value string) {
	if name == "Host" {
		h.hosts++
		h.host = value
		return
	}
	h.values = addField(h.Req.Header, h.values, name, value)
}

// addField adds a field, whose value is kept among values where it is the first of its
// name.
func addField(fields http.Header, values []string, name, value string) []string {
	if had := fields[name]; had != nil {
		fields[name] = append(had, value)
		return values
	}
	values = append(values, value)
	n := len(values)
	fields[name] = values[n-1 : n : n]
	return values
}

// setHost finds out whom the request is for.
func (h *Head) setHost() error {
	req := &h.Req
	switch {
	case h.hosts > 1:
		return badHead("more than one Host")
	case h.hosts == 0 && req.ProtoMinor > 0 && req.Method != http.MethodConnect:
		return badHead("Host is missing")
	}
	for i := range len(h.host) {
		if c := h.host[i]; !alphanumeric(c) && strings.IndexByte("!$%&()*+,-.:;=['][_~", c) < 0 {
			return badHead("malformed Host")
		}
	}
	if req.Host = req.URL.Host; req.Host == "" {
		req.Host = h.host
	}
	return nil
}

// setFraming finds out how long the body is and whether the connection ends.
func (h *Head) setFraming() error {
	req := &h.Req
	options := req.Header["Connection"]
	req.Close = HasToken(options, "close") || req.ProtoMinor == 0 && !HasToken(options, "keep-alive")
	lengths, codings := req.Header["Content-Length"], req.Header["Transfer-Encoding"]
	switch {
	case len(codings) > 0 && (len(lengths) > 0 || req.ProtoMinor == 0):
		return badHead("Transfer-Encoding does not belong there")
	case len(lengths) > 1:
		return badHead("more than one Content-Length")
	case len(codings) > 1, len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"):
		return Refused(http.StatusNotImplemented, 0, "of the transfer codings chunked alone is served here")
	case len(codings) == 1:
		req.ContentLength = -1
		delete(req.Header, "Transfer-Encoding")
		return h.setTrailer()
	case len(lengths) == 1:
		n, ok := parseLength(lengths[0])
		if !ok {
			return badHead("malformed Content-Length")
		}
		req.ContentLength = n
	}
	return nil
}

// parseLength reads digits.
func parseLength(s string) (int64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// setTrailer notes the names that are announced for the trailer.
func (h *Head) setTrailer() error {
	req := &h.Req
	for _, v := range req.Header["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			switch name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)); name {
			case "":
				continue
			case "Transfer-Encoding", "Trailer", "Content-Length":
				return badHead("malformed Trailer")
			}
			if !IsToken(name) {
				return badHead("malformed Trailer")
			}
			if req.Trailer == nil {
				req.Trailer = http.Header{}
			}
			req.Trailer[name] = nil
		}
	}
	delete(req.Header, "Trailer")
	return nil
}

// tokenLow and tokenHigh have a bit for each byte that a token is made of: below 64, and
// from there to 127.
const (
	tokenLow  = 0x3ff6cfa00000000
	tokenHigh = 0x57ffffffc7fffffe
)

// IsToken reports whether s is a token (RFC 9110).
func IsToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c < 64 && tokenLow>>c&1 == 0 || c >= 64 && (c > 127 || tokenHigh>>(c-64)&1 == 0) {
			return false
		}
	}
	return s != ""
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
