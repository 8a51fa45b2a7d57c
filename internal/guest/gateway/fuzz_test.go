package gateway_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/guest/gateway"
)

// FuzzJSONKey compares the streaming search with a decoded document: a key that is
// found is the value that every JSON reader sees there.
func FuzzJSONKey(f *testing.F) {
	for _, s := range [][2]string{
		{`{"message":{"chat":{"id":-100}}}`, "/message/chat/id"}, {`["a",{"b":"c"}]`, "/1/b"},
		{`{"a/b":"x","m~n":"y"}`, "/a~1b"}, {`{"":"x"}`, "/"}, {`{"id":1,"id":2}`, "/id"},
		{`{"id":1e3}`, "/id"}, {`[[[[[[`, "/0/0"}, {"{\"id\":\"\\ud800\"}", "/id"}, {`{"id":"a"} x`, "/id"},
	} {
		f.Add([]byte(s[0]), s[1])
	}
	f.Fuzz(func(t *testing.T, doc []byte, pointer string) {
		if !strings.HasPrefix(pointer, "/") || len(doc) > 1<<20 {
			return
		}
		key, err := gateway.JSONKey(doc, pointer)
		if err != nil {
			return
		}
		dec := json.NewDecoder(strings.NewReader(string(doc)))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("key %q from what is no JSON: %v", key, err)
		}
		if got := walk(v, pointer); got != key {
			t.Fatalf("key %q, but the document has %q there", key, got)
		}
	})
}

// walk follows an RFC 6901 pointer.
func walk(v any, pointer string) string {
	for _, p := range strings.Split(pointer[1:], "/") {
		p = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
		switch at := v.(type) {
		case map[string]any:
			v = at[p]
		case []any:
			v = nil
			for i, e := range at {
				if b, _ := json.Marshal(i); string(b) == p {
					v = e
				}
			}
		default:
			return "(nothing)"
		}
	}
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return "(no scalar)"
}

// FuzzKeyOf looks for what no request may do: give a key of more than one reading,
// or a panic.
func FuzzKeyOf(f *testing.F) {
	f.Add("path", "/u", "/u/alice/x?user=b", "carol", "{}")
	f.Add("query:user", "", "/?user=b&user=c", "", "")
	f.Add("header:X-User", "/", "/", "dave", "")
	f.Add("json:/id", "/", "/", "", `{"id":"x"}`)
	f.Fuzz(func(t *testing.T, from, prefix, target, header, body string) {
		s := mvm.Selector{Kind: mvm.SelectByKey, From: from}
		u, err := url.ParseRequestURI(target)
		if err != nil || s.Validate() != nil {
			return
		}
		req := &http.Request{URL: u, Host: header, Header: http.Header{"X-User": {header}}}
		key, err := gateway.KeyOf(from, prefix, req, []byte(body))
		if err != nil || mvm.ValidateKey(key) != nil {
			return
		}
		if from == "path" && (strings.ContainsAny(key, "/") || key == "." || key == "..") {
			t.Fatalf("key %q from path %q", key, target)
		}
	})
}

// FuzzAnswer has the head of an answer read in place, where that is done, and by net/http:
// it says the same.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200\r\nContent-Length: 0\r\nA: b\r\nA: c\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\nx: \t y \r\n\r\nab", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n"} {
		f.Add([]byte(s), "GET")
		f.Add([]byte(s), "HEAD")
	}
	f.Fuzz(func(t *testing.T, raw []byte, method string) {
		if len(raw) > 4000 {
			return
		}
		got, inPlace := gateway.ReadAnswer(raw, method)
		if !inPlace {
			return
		}
		want, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("taken, and net/http says %v", err)
		}
		delete(got.Header, "Connection") // net/http takes it off where it says close
		delete(want.Header, "Connection")
		if got.StatusCode != want.StatusCode || got.ContentLength != want.ContentLength || got.Close != want.Close || !maps.EqualFunc(got.Header, want.Header, slices.Equal) {
			if want.Header.Get("Pragma") == "" { // of which net/http makes another field
				t.Fatalf("got %d, length %d, close %v, %q; net/http has %d, %d, %v, %q", got.StatusCode, got.ContentLength, got.Close, got.Header, want.StatusCode, want.ContentLength, want.Close, want.Header)
			}
		}
		a, errA := io.ReadAll(got.Body)
		b, errB := io.ReadAll(want.Body)
		if !bytes.Equal(a, b) || !errors.Is(errA, errB) {
			t.Fatalf("the body is %q, %v; by net/http %q, %v", a, errA, b, errB)
		}
	})
}
