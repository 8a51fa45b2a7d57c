package gateway

import (
	"mvm/internal/guest/gateway/wire"
	"net/http"
	"strconv"
	"time"
)

// dated is a Date header of a second.
type dated struct {
	second int64
	line   []byte
}

// today returns the Date header's line.
func (r *Router) today() []byte {
	now := time.Now()
	d := r.date.Load()
	if d == nil || d.second != now.Unix() {
		d = &dated{now.Unix(), wire.AppendField(nil, "Date", now.UTC().Format(http.TimeFormat))}
		r.date.Store(d)
	}
	return d.line
}

// appendStatus appends the first line of an answer.
func (x *exchange) appendStatus(b []byte, req *http.Request, code int) []byte {
	if req.ProtoMinor == 0 {
		b = append(b, "HTTP/1.0 "...)
	} else {
		b = append(b, "HTTP/1.1 "...)
	}
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(b, ' ')
	text := http.StatusText(code)
	if text == "" {
		text = "status code " + strconv.Itoa(code)
	}
	b = append(b, text...)
	return append(b, "\r\n"...)
}

// appendConnection appends whether the connection ends, where that is to be said, and the
// end of the head.
func (x *exchange) appendConnection(b []byte, req *http.Request) []byte {
	if !x.keep {
		b = append(b, "Connection: close\r\n"...)
	} else if req.ProtoMinor == 0 {
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	return append(b, "\r\n"...)
}

// appendLength appends the length of the body and what ends the head.
func (x *exchange) appendLength(b []byte, req *http.Request, length int64) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, length, 10)
	b = append(b, "\r\n"...)
	return x.appendConnection(b, req)
}

// appendAnswer appends the status and the fields of an instance's answer, but for those
// that are about the connection or the length.
func (x *exchange) appendAnswer(b []byte, req *http.Request, res *http.Response) []byte {
	b = x.appendStatus(b, req, res.StatusCode)
	named := wire.NamedByConnection(res.Header)
	for name, values := range res.Header {
		if name == "Content-Length" || !wire.IsToken(name) || !wire.EndToEnd(name) || wire.Contains(named, name) {
			continue
		}
		for _, v := range values {
			b = wire.AppendValue(append(append(b, name...), ": "...), v)
		}
	}
	return b
}
