package wire

import (
	"net/http"
	"net/textproto"
	"strings"
)

// UserHeader tells an instance of a by_key route the key that led there.
const UserHeader = "X-Mvm-User"

func AppendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// plain reports whether the text can't end its line.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c == '\r' || c == '\n' || c == 0 {
			return false
		}
	}
	return true
}

// forwarded reports whether a request's header goes to the instance as it came. A name
// that some servers take for another's is that one here.
func forwarded(name string) bool {
	if strings.Contains(name, "_") {
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	switch name {
	case "Host", "Content-Length", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip":
		return false
	}
	return EndToEnd(name)
}

// EndToEnd reports whether the header is not about one connection only.
func EndToEnd(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return false
	}
	return true
}

// NamedByConnection lists the headers that are about one connection by their own word.
func NamedByConnection(h http.Header) []string {
	var names []string
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			name = textproto.TrimString(name)
			if name != "" && !strings.EqualFold(name, "keep-alive") && !strings.EqualFold(name, "close") && !strings.EqualFold(name, "upgrade") {
				names = append(names, textproto.CanonicalMIMEHeaderKey(name))
			}
		}
	}
	return names
}

func Contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// UpgradeOf returns the protocol that the head's sender wants to go on with, "" for none.
func UpgradeOf(h http.Header) string {
	if !HasToken(h["Connection"], "upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// HasToken reports whether one of the lists of tokens has the token.
func HasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// AppendValue appends a value and the end of its line, which nothing in it can be.
func AppendValue(b []byte, v string) []byte {
	if plain(v) {
		return append(append(b, v...), "\r\n"...)
	}
	for i := range len(v) {
		c := v[i]
		if c == '\r' || c == '\n' || c == 0 {
			c = ' '
		}
		b = append(b, c)
	}
	return append(b, "\r\n"...)
}

// repeats reports whether a header has the name, or one that is alike.
func repeats(h http.Header, name string) bool {
	for have := range h {
		if Alike(have, name) {
			return true
		}
	}
	return false
}

// Alike reports whether some server may take the one header for the other: many make
// '-' and '_' the same.
func Alike(a, b string) bool {
	return strings.EqualFold(strings.ReplaceAll(a, "_", "-"), strings.ReplaceAll(b, "_", "-"))
}
