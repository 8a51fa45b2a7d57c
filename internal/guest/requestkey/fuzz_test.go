package requestkey_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/guest/requestkey"
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
		key, err := requestkey.OfJSON(doc, pointer)
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
		key, err := requestkey.Of(from, prefix, req, []byte(body))
		if err != nil || mvm.ValidateKey(key) != nil {
			return
		}
		if from == "path" && (strings.ContainsAny(key, "/") || key == "." || key == "..") {
			t.Fatalf("key %q from path %q", key, target)
		}
	})
}
