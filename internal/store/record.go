package store

import (
	"encoding/json"
	"errors"
	"net/netip"

	"mvm"
)

// Records are what the file holds: types of the store's own, which have the names and the
// order of fields that are on disk. A noun may get other names, or another form in the API,
// and the file stays readable: what changes is the conversion here, or there is a migration.
// Each has recordOf and noun, one the inverse of the other.
type record[N any] interface{ noun() N }

// one converts what a pointer leads to.
func one[A, B any](v *A, to func(A) B) *B {
	if v == nil {
		return nil
	}
	out := to(*v)
	return &out
}

// each converts a list. One that is nil stays nil, since JSON tells it from an empty one.
func each[A, B any](list []A, to func(A) B) []B {
	if list == nil {
		return nil
	}
	out := make([]B, len(list))
	for n, v := range list {
		out[n] = to(v)
	}
	return out
}

// read returns the value at the key, and says whether it is there.
func read[R record[N], N any](t *Tx, bucket string, key []byte) (v N, ok bool, err error) {
	var r R
	ok, err = t.get(bucket, key, &r)
	return r.noun(), ok, err
}

// list decodes every value whose key has the prefix, in the order of the keys.
func list[R record[N], N any](t *Tx, bucket, prefix string) ([]N, error) {
	var out []N
	err := t.each(bucket, prefix, func(key, raw []byte) error {
		v, err := decodeAs[R](bucket, key, raw)
		if err == nil {
			out = append(out, v)
		}
		return err
	})
	return out, err
}

// decodeAs decodes a record and returns the noun.
func decodeAs[R record[N], N any](bucket string, key, raw []byte) (N, error) {
	var r R
	err := decode(bucket, key, raw, &r)
	return r.noun(), err
}

// selectorRecord is "any", "least_connections", {"by_ip":"…"} or {"by_key":{"from":"…"}}.
type selectorRecord struct {
	kind mvm.SelectorKind
	ip   netip.Addr
	from string
}

// taggedSelector is a selector that says more than its kind.
type taggedSelector struct {
	ByIP  *netip.Addr `json:"by_ip,omitempty"`
	ByKey *struct {
		From string `json:"from"`
	} `json:"by_key,omitempty"`
}

func recordOfSelector(v mvm.Selector) selectorRecord { return selectorRecord{v.Kind, v.IP, v.From} }

func (r selectorRecord) noun() mvm.Selector {
	return mvm.Selector{Kind: r.kind, IP: r.ip, From: r.from}
}

// MarshalJSON writes the form on disk.
func (r selectorRecord) MarshalJSON() ([]byte, error) {
	var tagged taggedSelector
	switch r.kind {
	case mvm.SelectByIP:
		tagged.ByIP = &r.ip
	case mvm.SelectByKey:
		tagged.ByKey = &struct {
			From string `json:"from"`
		}{r.from}
	case "":
		return json.Marshal(mvm.SelectAny)
	default:
		return json.Marshal(r.kind)
	}
	return json.Marshal(tagged)
}

// UnmarshalJSON reads the form on disk.
func (r *selectorRecord) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &r.kind)
	}
	var tagged taggedSelector
	if err := json.Unmarshal(b, &tagged); err != nil {
		return err
	}
	switch {
	case tagged.ByIP != nil:
		*r = selectorRecord{kind: mvm.SelectByIP, ip: *tagged.ByIP}
	case tagged.ByKey != nil:
		*r = selectorRecord{kind: mvm.SelectByKey, from: tagged.ByKey.From}
	default:
		return errors.New("instance_selector is none that is known")
	}
	return nil
}
