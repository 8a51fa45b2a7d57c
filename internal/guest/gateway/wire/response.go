package wire

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
)

// AnswerHead is the memory for the heads of a connection's answers, one after another.
type AnswerHead struct {
	res    http.Response
	fields http.Header
	values []string
	body   sizedBody
}

// Read reads the head of an answer: in place where all of it is there and it is as most are.
func (a *AnswerHead) Read(in *bufio.Reader, req *http.Request) (*http.Response, error) {
	if _, err := in.Peek(1); err == nil {
		have, _ := in.Peek(in.Buffered())
		if n := bytes.Index(have, []byte("\r\n\r\n")); n >= 0 && a.parse(string(have[:n+2]), req.Method, in) {
			_, _ = in.Discard(n + 4)
			return &a.res, nil
		}
	}
	return http.ReadResponse(in, req)
}

// parse reads the head of an answer as most are: whose body has a length, and in which
// nothing is odd. What it does not take is for net/http to read.
func (a *AnswerHead) parse(text, method string, in *bufio.Reader) bool {
	line, rest, ok := cutLine(text)
	if !ok || len(line) < 12 || !strings.HasPrefix(line, "HTTP/1.1 ") || len(line) > 12 && line[12] != ' ' {
		return false
	}
	status, ok := parseLength(line[9:12])
	if !ok || status < 200 {
		return false
	}
	if a.fields == nil {
		a.fields = http.Header{}
	}
	clear(a.fields)
	clear(a.values)
	a.values = a.values[:0]
	for n := 0; rest != ""; n++ {
		if line, rest, ok = cutLine(rest); !ok || n == maxFields {
			return false
		}
		name, value, ok := parseField(line)
		if !ok || name == "Transfer-Encoding" || name == "Trailer" {
			return false
		}
		a.values = addField(a.fields, a.values, name, value)
	}
	lengths := a.fields["Content-Length"]
	if len(lengths) != 1 {
		return false
	}
	size, ok := parseLength(lengths[0])
	if !ok || status == http.StatusNoContent || status == http.StatusNotModified {
		return false
	}
	a.res = http.Response{StatusCode: int(status), ProtoMajor: 1, ProtoMinor: 1, Header: a.fields, Body: http.NoBody,
		ContentLength: size, Close: HasToken(a.fields["Connection"], "close")}
	if size > 0 && method != http.MethodHead {
		a.body = sizedBody{in, size}
		a.res.Body = &a.body
	}
	return true
}

// sizedBody is a body of a length.
type sizedBody struct {
	in   *bufio.Reader
	left int64
}

// Read reads what is left. The end comes with the last bytes.
func (b *sizedBody) Read(p []byte) (int, error) {
	n, err := b.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		return n, io.EOF
	case err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// Close does nothing.
func (b *sizedBody) Close() error { return nil }
