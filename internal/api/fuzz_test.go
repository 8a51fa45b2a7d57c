package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"testing"

	"mvm"
)

// FuzzDecodeRequests feeds the request bodies of all routes: whatever comes, it is
// an error of a kind or something that encodes again.
func FuzzDecodeRequests(f *testing.F) {
	for _, seed := range []string{`{"id":"a"}`, `{"deployment":{"tenant":{"id":"a"},"pools":[{"routes":{"routes":[{"target":{"instance_selector":"any"}}]}}]}}`,
		`{"secrets":{"a":"eA==","b":null}}`, `{"op":"sleep","force":true}`, `{"argv":["x"],"rows":70000}`, `{"spec":null}`, `[]`, `null`, `{} {}`, "", "\x00",
		`{"subnet":"10.0.0.0/8"}`, `{"publish":[{"host":"1.2.3.4:5","guest":1}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range (&Server{}).routes().routes {
			v := reflect.New(r.in).Interface()
			err := decodeStrict(b, v)
			if err != nil {
				if !mvm.IsKind(err, mvm.KindInvalid) {
					t.Fatalf("%T from %q: error of kind %s: %v", v, b, mvm.KindOf(err), err)
				}
				continue
			}
			if _, err := json.Marshal(v); err != nil {
				t.Fatalf("%T from %q does not encode: %v", v, b, err)
			}
		}
	})
}

// FuzzParams feeds query strings: what passes is valid by the rules of the nouns.
func FuzzParams(f *testing.F) {
	for _, seed := range []string{"tenant=a&pool=b", "address=a%2Fb%2Fi-00000000", "address=a/b@c", "tail=5&follow=true&console=0", "a=b", "tail=1&tail=1", "%", "tail=99999999999999999999", ";", "since=2026-01-02T15:04:05.5Z&after=7&action=PoolBuilt,WakeRefused", "action=,", "since=now", "after=-1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, q string) {
		p, err := newParams(&http.Request{URL: &url.URL{RawQuery: q}})
		if err != nil {
			if !mvm.IsKind(err, mvm.KindInvalid) {
				t.Fatalf("%q: error of kind %s", q, mvm.KindOf(err))
			}
			return
		}
		if p.tenant != "" && mvm.ValidateName("tenant", p.tenant) != nil || p.tail < 0 {
			t.Fatalf("%q passed as %+v", q, p)
		}
		for _, act := range p.actions {
			if !slices.Contains(mvm.Actions(), act) {
				t.Fatalf("%q passed with action %q", q, act)
			}
		}
		if s := p.addr.String(); s != "" {
			if again, err := mvm.ParseAddress(s); err != nil || again != p.addr {
				t.Fatalf("%q: address %+v does not go round: %v", q, p.addr, err)
			}
		}
	})
}
