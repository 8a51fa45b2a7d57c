// Package requestkey finds what a request names: by a header, a parameter, its path or a
// place in its JSON body. Nothing that could be read in two ways names anything.
package requestkey

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mvm/internal/urlpath"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// ReadsBody reports whether the key is looked for in the body.
func ReadsBody(from string) bool { return strings.HasPrefix(from, "json:") }

// Of extracts the key that `from` of a by_key selector names. Nothing that could be read
// in two ways gives a key: repeated headers, parameters and JSON names, encoded
// slashes and dot segments are errors. The key's own syntax is not checked.
func Of(from, prefix string, req *http.Request, body []byte) (string, error) {
	kind, arg, _ := strings.Cut(from, ":")
	switch kind {
	case "path":
		return pathKey(prefix, req.URL)
	case "header":
		if strings.EqualFold(arg, "host") {
			return req.Host, nil
		}
		return single(req.Header.Values(arg), "header")
	case "query":
		q, err := url.ParseQuery(req.URL.RawQuery)
		if err != nil {
			return "", errors.New("the query is malformed")
		}
		return single(q[arg], "query parameter")
	case "json":
		return OfJSON(body, arg)
	}
	return "", fmt.Errorf("selector %q is unknown", from)
}

// pathKey returns the first segment after the prefix, which must be the same however
// the path is read.
func pathKey(prefix string, u *url.URL) (string, error) {
	readings, err := urlpath.Readings(u.EscapedPath())
	if err != nil {
		return "", err
	}
	key := ""
	for n, path := range readings {
		rest := strings.TrimPrefix(path, strings.TrimRight(prefix, "/"))
		k, _, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
		if n > 0 && k != key {
			return "", urlpath.Ambiguous(u.EscapedPath())
		}
		key = k
	}
	if key == "" {
		return "", Missing("path")
	}
	return key, nil
}

// Missing says that a request names no key; one that names a bad one is another error.
type Missing string

func (m Missing) Error() string {
	if m == "path" {
		return "the path ends before it"
	}
	return "the " + string(m) + " is missing"
}

func single(values []string, what string) (string, error) {
	switch len(values) {
	case 0:
		return "", Missing(what)
	case 1:
		return values[0], nil
	}
	return "", fmt.Errorf("the %s is there %d times", what, len(values))
}

// OfJSON returns the string or whole number at the RFC 6901 pointer of the JSON
// document. It keeps no copy of the document and reads all of it: syntax errors
// anywhere, and a second value for a name on the way, are errors.
func OfJSON(doc []byte, pointer string) (string, error) {
	path := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, p := range path {
		path[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	key, err := jsonAt(dec, path)
	if err != nil {
		return "", err
	}
	if _, err := dec.Token(); err != io.EOF {
		return "", errNotJSON
	}
	return key, nil
}

// What a JSON document may have at the pointer: nothing, or something that is no key.
var (
	ErrNoValue = errors.New("the body has no value there")
	ErrNotKey  = errors.New("the value is not a string or whole number")
)

var errNotJSON = errors.New("the body is not one valid JSON value")

// jsonAt reads one value and returns the key at the path below it.
func jsonAt(dec *json.Decoder, path []string) (string, error) {
	tok, err := dec.Token()
	if err != nil {
		return "", errNotJSON
	}
	if len(path) == 0 {
		return scalarKey(tok)
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return "", ErrNoValue
	}
	key, found := "", false
	var skip skipped
	wanted := index(path[0])
	for i := 0; dec.More(); i++ {
		here := i == wanted
		if delim == '{' {
			tok, err := dec.Token()
			if err != nil {
				return "", errNotJSON
			}
			here = tok == path[0]
		}
		if !here {
			if err := dec.Decode(&skip); err != nil {
				return "", errNotJSON
			}
			continue
		}
		if found {
			return "", errors.New("the body has two values there")
		}
		if key, err = jsonAt(dec, path[1:]); err != nil {
			return "", err
		}
		found = true
	}
	if _, err := dec.Token(); err != nil {
		return "", errNotJSON
	}
	if !found {
		return "", ErrNoValue
	}
	return key, nil
}

// index returns the array index that a part of a pointer is, or -1.
func index(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s {
		return -1
	}
	return n
}

// scalarKey returns the key that a JSON token is.
func scalarKey(tok json.Token) (string, error) {
	switch v := tok.(type) {
	case string:
		return v, nil
	case json.Number:
		if s := v.String(); s != "-0" && !strings.ContainsAny(s, ".eE") {
			return s, nil
		}
	}
	return "", ErrNotKey
}

// skipped is a JSON value that is checked and not kept.
type skipped struct{}

// UnmarshalJSON keeps nothing.
func (*skipped) UnmarshalJSON([]byte) error { return nil }
