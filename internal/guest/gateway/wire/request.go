package wire

import (
	"net/http"
	"net/netip"
	"strconv"
)

// AppendHead appends the head of the request to the instance: everything as it came,
// but what is about the client's connection, and that who sent it is told by the
// gateway alone.
func AppendHead(b []byte, req *http.Request, source netip.Addr, trust bool, addr string, length int64) ([]byte, error) {
	host := req.Host
	if host == "" {
		host = addr
	}
	uri := req.URL.RequestURI()
	upgrade := UpgradeOf(req.Header)
	if !plain(host) || !plain(uri) || !plain(upgrade) {
		return b, Refused(http.StatusBadRequest, 0, "the request has characters that may not be there")
	}
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, uri...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = AppendField(b, "Host", host)
	named := NamedByConnection(req.Header)
	for name, values := range req.Header {
		if !forwarded(name) || Contains(named, name) {
			continue
		}
		for _, v := range values {
			if !plain(v) {
				return b, Refused(http.StatusBadRequest, 0, "the header %s has characters that may not be there", Printable(name, 100))
			}
			b = AppendField(b, name, v)
		}
	}
	b, err := appendForwarded(b, req, source, trust)
	if err != nil {
		return b, err
	}
	if upgrade != "" {
		b = AppendField(b, "Connection", "Upgrade")
		b = AppendField(b, "Upgrade", upgrade)
	}
	if HasToken(req.Header["Te"], "trailers") {
		b = AppendField(b, "Te", "trailers")
	}
	return append(appendFraming(b, req, length), "\r\n"...), nil
}

// appendFraming appends how long the body is.
func appendFraming(b []byte, req *http.Request, length int64) []byte {
	switch {
	case length < 0:
		b = AppendField(b, "Transfer-Encoding", "chunked")
		for name := range req.Trailer {
			if trailing(req, name) {
				b = AppendField(b, "Trailer", name)
			}
		}
	case length > 0 || req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	}
	return b
}

// trailing reports whether the field goes to the instance behind the body. What a header
// says, or the gateway alone, no trailer says otherwise.
func trailing(req *http.Request, name string) bool {
	return forwarded(name) && !Alike(name, UserHeader) && !repeats(req.Header, name)
}

// AppendTrailer appends the end of a body in chunks.
func AppendTrailer(b []byte, req *http.Request) []byte {
	b = append(b, "0\r\n"...)
	for name, values := range req.Trailer {
		if !trailing(req, name) {
			continue
		}
		for _, v := range values {
			if plain(v) {
				b = AppendField(b, name, v)
			}
		}
	}
	return append(b, "\r\n"...)
}
