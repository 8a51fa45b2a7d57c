package urlpath_test

import (
	"mvm/internal/urlpath"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"mvm"
)

func TestReadings(t *testing.T) {
	for _, c := range []struct {
		path string
		want []string // nil: refused
	}{
		{"/", []string{"/"}},
		{"/a/b.c/~d@e", []string{"/a/b.c/~d@e"}},
		{"/a%20b/%C3%A9", []string{"/a b/é"}},
		{"/.well-known/x", []string{"/.well-known/x"}},
		{"/a/...", []string{"/a/..."}},
		{"/redirect/http://x/y", []string{"/redirect/http://x/y", "/redirect/http:/x/y"}},
		{"//admin", []string{"//admin", "/admin"}},
		{"/a/", []string{"/a/"}},
		{"/p/g%2Fq", []string{"/p/g/q", "/p/g%2Fq"}},
		{"/a;v=1/b", []string{"/a;v=1/b", "/a/b"}},
		{"/%2561dmin", []string{"/%61dmin", "/admin"}},
		{"/100%25", []string{"/100%"}},
		{`/a%5Cb`, []string{`/a\b`, "/a/b"}},
		{"", nil}, {"*", nil}, {"a", nil},
		{"/x/../admin", nil}, {"/./a", nil}, {"/..", nil}, {"/a/.", nil},
		{"/%2e%2e/admin", nil}, {"/.%2E/admin", nil}, {"/%2e/a", nil},
		{"/x/..;/admin", nil}, {"/x/..;v=1/admin", nil}, {"/x/%2e%2e%3b/admin", nil},
		{"/x%2F..%2Fadmin", nil}, {`/x%5c..%5cadmin`, nil}, {"/x/%252e%252e/admin", nil}, {"/x%252f..%252fadmin", nil}, {"/x%25%32%66..%25%32%66admin", nil},
		{"/a%00b", nil}, {"/a%0d%0ab", nil}, {"/a%2500", nil}, {"/a%7f", nil},
		{"/a%zz", nil}, {"/a%2", nil},
		{"/" + strings.Repeat("a//", 4000), nil},
	} {
		got, err := urlpath.Readings(c.path)
		if (err == nil) != (c.want != nil) {
			t.Errorf("Readings(%.60q) = %q, %v; want %q", c.path, got, err, c.want)
			continue
		}
		if len(c.want) > 0 && (got[0] != c.want[0] || !sameSet(got, c.want)) {
			t.Errorf("Readings(%.60q) = %q, want %q, the first one first", c.path, got, c.want)
		}
	}
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// servers are what programs behind a gateway make of a path; each returns the path that
// it serves, cleaned of dots and doubled slashes where it does that. They share no code
// with Readings.
var servers = map[string]func(escaped string) string{
	"Go's handlers, which see the decoded path": func(p string) string {
		u, err := url.ParseRequestURI(p)
		if err != nil {
			return ""
		}
		return u.Path
	},
	"Go's file server and ServeMux, which decode and clean": func(p string) string {
		u, err := url.ParseRequestURI(p)
		if err != nil {
			return ""
		}
		return path.Clean("/" + u.Path)
	},
	"one that decodes what is no slash, and cleans": func(p string) string {
		low := strings.NewReplacer("%2f", "%252F", "%2F", "%252F").Replace(p)
		d, err := url.PathUnescape(low)
		if err != nil {
			return ""
		}
		return path.Clean("/" + d)
	},
	"one that drops parameters, decodes and cleans": func(p string) string {
		var kept []string
		for _, s := range strings.Split(p, "/") {
			kept = append(kept, strings.SplitN(s, ";", 2)[0])
		}
		d, err := url.PathUnescape(strings.Join(kept, "/"))
		if err != nil {
			return ""
		}
		return path.Clean("/" + d)
	},
	"one that decodes twice and cleans": func(p string) string {
		d, err := url.PathUnescape(p)
		if err != nil {
			return ""
		}
		if d, err = url.PathUnescape(d); err != nil {
			return ""
		}
		return path.Clean("/" + d)
	},
	"one that takes backslashes for slashes, and cleans": func(p string) string {
		d, err := url.PathUnescape(p)
		if err != nil {
			return ""
		}
		return path.Clean("/" + strings.ReplaceAll(d, `\`, "/"))
	},
	"one that ends at a NUL": func(p string) string {
		d, err := url.PathUnescape(p)
		if err != nil {
			return ""
		}
		d, _, _ = strings.Cut(d, "\x00")
		return path.Clean("/" + d)
	},
}

// FuzzReadings looks for a path that is passed on by one route while a server behind it
// serves what another route is for.
func FuzzReadings(f *testing.F) {
	for _, p := range []string{"/", "/a", "/a/b/", "//a", "/x/../a", "/%2e%2e/a", "/a/../x", "/a/b%2Fc", "/a%2fb", "/a;x/b", "/a/..;/b",
		"/%2561", "/a%5cb", "/a%00", "/b/http://a/b", "/a/%252e%252e/b", "/a//b", "/./a", "/a/b;%2Fa", "/a%3b/../b"} {
		f.Add(p, uint8(0xff))
	}
	f.Fuzz(func(t *testing.T, raw string, which uint8) { checkPath(t, raw, which) })
}

// TestNoServerIsFooled is FuzzReadings on paths of what such attacks are made of.
func TestNoServerIsFooled(t *testing.T) {
	tokens := rapid.SampledFrom([]string{"/", "/", "//", "a", "b", "x", ".", "..", "%2e", "%2E", "%2F", "%2f", "%5c", `\`, ";", "%3b", "%25", "2e", "2f", "5c", "61", "%61", "%00", "%20", "?", "http:"})
	rapid.Check(t, func(t *rapid.T) {
		raw := "/" + strings.Join(rapid.SliceOfN(tokens, 0, 9).Draw(t, "path"), "")
		checkPath(t, raw, rapid.Byte().Draw(t, "routes"))
	})
}

// checkPath looks at one path and a table of some of the prefixes.
func checkPath(t interface{ Fatalf(string, ...any) }, raw string, which uint8) {
	u, err := url.ParseRequestURI(raw)
	if err != nil || u.Opaque != "" || u.Host != "" {
		return
	}
	var table mvm.RoutingTable
	for n, p := range []string{"/", "/a", "/a/b", "/b", "/b/a", "/x", "/a;x"} {
		if which>>n&1 == 1 {
			table.Routes = append(table.Routes, mvm.Route{Name: p, Match: mvm.MatchRule{Port: 80, PathPrefix: p}})
		}
	}
	sent := u.EscapedPath()
	readings, err := urlpath.Readings(sent)
	if err != nil {
		return
	}
	src := netip.MustParseAddr("192.0.2.1")
	got, ok, same := table.MatchEvery(80, readings, src)
	if !same {
		return
	}
	for name, serve := range servers {
		served := serve(sent)
		if served == "" {
			continue
		}
		want, found := table.Match(80, served, src)
		if found != ok || want.Name != got.Name {
			t.Fatalf("%q goes by route %q, and %s serves %q, which is for %q", sent, got.Name, name, served, want.Name)
		}
	}
}
