// Package urlpath says what servers may take the path of a request for.
package urlpath

import (
	"slices"
	"strings"

	"mvm"
)

// MaxOddPath bounds a path with something in it that servers read in different ways.
const MaxOddPath = 8 << 10

// Readings returns what servers may take a request's path for. The first is the decoded
// path, as most do; there are more where the path has empty segments, encoded slashes,
// backslashes, parameters (;) or something that is encoded twice, since some servers
// merge, decode or cut these, and others do not. escaped is the path as it is sent on.
//
// A path that no server should be asked for has none: with a dot segment or a control
// character in any reading, or that does not begin with a slash. Clients resolve dot
// segments before they send.
func Readings(escaped string) ([]string, error) {
	if !strings.HasPrefix(escaped, "/") {
		return nil, mvm.Errorf(mvm.KindInvalid, "the path does not begin with a slash")
	}
	if plainPath(escaped) {
		return []string{escaped}, nil
	}
	odd := oddities(escaped)
	if odd != (pathReader{}) && len(escaped) > MaxOddPath {
		return nil, mvm.Errorf(mvm.KindInvalid, "the path has %s, and more than %d bytes", odd, MaxOddPath)
	}
	var out []string
	for r := range odd.all {
		path, ok := r.read(escaped)
		if !ok {
			continue
		}
		if err := sanePath(path); err != nil {
			return nil, err
		}
		if !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	if len(out) == 0 {
		return nil, mvm.Errorf(mvm.KindInvalid, "the path has an invalid percent-encoding")
	}
	return out, nil
}

// Ambiguous says what makes a path one that servers read in different ways.
func Ambiguous(escaped string) error {
	return mvm.Errorf(mvm.KindInvalid, "the path is ambiguous: servers interpret %s in different ways", oddities(escaped))
}

// plainPath reports whether the path has one reading, which is the path itself, and
// nothing that is refused.
func plainPath(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '%', c == ';', c == '\\', c <= ' ', c >= 0x7f:
			return false
		case c == '/' && i+1 < len(s) && (s[i+1] == '/' || s[i+1] == '.'):
			return false
		}
	}
	return true
}

// sanePath refuses a reading that leaves its place.
func sanePath(path string) error {
	for i := range len(path) {
		if path[i] < ' ' || path[i] == 0x7f {
			return mvm.Errorf(mvm.KindInvalid, "the path has a control character")
		}
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return mvm.Errorf(mvm.KindInvalid, "the path has a dot segment")
		}
	}
	return nil
}

// pathReader is a way to read a path: what a server makes of it beside decoding it once.
type pathReader struct {
	slash, twice, backslash, params, merge bool
}

// oddities are the ways in which the path could be read differently.
func oddities(escaped string) pathReader {
	low := strings.ToLower(escaped)
	twice := strings.Contains(low, "%25")
	any := func(what ...string) bool {
		return slices.ContainsFunc(what, func(s string) bool { return strings.Contains(low, s) })
	}
	r := pathReader{twice: twice, slash: any("%2f"), backslash: any("\\", "%5c", "%255c"), params: any(";", "%3b", "%253b")}
	r.merge = any("//") || r.slash || r.twice || r.backslash || r.params
	return r
}

// String names the oddities, for people.
func (r pathReader) String() string {
	var out []string
	for _, odd := range []struct {
		is   bool
		what string
	}{{r.slash, "an encoded slash"}, {r.twice, "an encoded percent sign"}, {r.backslash, "a backslash"}, {r.params, "a semicolon"},
		{r.merge && !r.slash && !r.twice && !r.backslash && !r.params, "an empty segment"}} {
		if odd.is {
			out = append(out, odd.what)
		}
	}
	return strings.Join(out, " and ")
}

// all yields every way to read with some of r's oddities, the plain one first.
func (r pathReader) all(yield func(pathReader) bool) {
	flags := []bool{r.merge, r.params, r.backslash, r.twice, r.slash}
	for n := range 1 << len(flags) {
		on := func(bit int) bool { return n>>bit&1 == 1 }
		possible := true
		for bit, has := range flags {
			possible = possible && (has || !on(bit))
		}
		// Bit 4 clear means that encoded slashes are slashes, as in a decoded path.
		if possible && !yield(pathReader{merge: on(0), params: on(1), backslash: on(2), twice: on(3), slash: on(4)}) {
			return
		}
	}
}

// read returns the path as this reader takes it; false where it is not encoded well
// enough for that. With slash an encoded slash stays data.
func (r pathReader) read(escaped string) (string, bool) {
	path := escaped
	if r.params {
		path = cutParams(path)
	}
	path, ok := decodePath(path, r.slash)
	if ok && r.twice {
		path, ok = decodePath(path, false)
	}
	if !ok {
		return "", false
	}
	if r.params {
		path = cutParams(path)
	}
	if r.backslash {
		path = strings.ReplaceAll(path, "\\", "/")
	}
	if r.merge {
		path = mergeSlashes(path)
	}
	return path, true
}

// cutParams removes what follows a semicolon in each segment.
func cutParams(path string) string {
	var b strings.Builder
	for n, segment := range strings.Split(path, "/") {
		if n > 0 {
			b.WriteByte('/')
		}
		segment, _, _ = strings.Cut(segment, ";")
		b.WriteString(segment)
	}
	return b.String()
}

func mergeSlashes(path string) string {
	var b strings.Builder
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			b.WriteByte(path[i])
		}
	}
	return b.String()
}

// decodePath decodes the percent signs of a path; with keep those of slashes stay.
func decodePath(path string, keep bool) (string, bool) {
	if !strings.Contains(path, "%") {
		return path, true
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			b.WriteByte(path[i])
			continue
		}
		if i+2 >= len(path) {
			return "", false
		}
		hi, lo := unhex(path[i+1]), unhex(path[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		if c := byte(hi<<4 | lo); c == '/' && keep {
			b.WriteString("%2F")
		} else {
			b.WriteByte(c)
		}
		i += 2
	}
	return b.String(), true
}

// unhex is the value of a hex digit, or -1.
func unhex(c byte) int {
	if c >= 'A' && c <= 'F' {
		c += 'a' - 'A'
	}
	return strings.IndexByte("0123456789abcdef", c)
}
