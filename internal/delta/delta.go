// Package delta says in which fields two values differ, by the names that their JSON
// has. It is pure.
package delta

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Bounds of a text.
const (
	maxValue = 60  // bytes of one value
	maxText  = 800 // bytes of all
)

// Names returns the names of the top-level JSON fields in which the values differ,
// sorted. A field that JSON leaves out when it is empty equals an empty one.
func Names(old, new any) []string {
	a, b := fields(old), fields(new)
	var out []string
	for _, name := range keys(a, b) {
		if !bytes.Equal(a[name], b[name]) {
			out = append(out, name)
		}
	}
	return out
}

// Text says what differs, for people: "resources.mem_mib 1024 -> 2048, env (A added),
// routes". Of a list it gives the name. Of the objects in hidden it gives the names of
// their fields and never a value. The text is bounded; what does not fit is named at its
// end by its top-level field.
func Text(old, new any, hidden ...string) string {
	parts := object("", fields(old), fields(new), hidden)
	out := strings.Join(parts, ", ")
	if len(out) > maxText {
		out = strings.ToValidUTF8(out[:maxText], "") + "… (in all: " + strings.Join(Names(old, new), ", ") + ")"
	}
	return out
}

func object(path string, a, b map[string]json.RawMessage, hidden []string) (out []string) {
	for _, name := range keys(a, b) {
		x, y := a[name], b[name]
		at := path + name
		switch {
		case bytes.Equal(x, y):
		case slices.Contains(hidden, at):
			out = append(out, at+" ("+strings.Join(named(open(x), open(y)), ", ")+")")
		case first(x) == '{' || first(y) == '{':
			out = append(out, object(at+".", open(x), open(y), hidden)...)
		case first(x) == '[' || first(y) == '[':
			out = append(out, at)
		default:
			out = append(out, fmt.Sprintf("%s %s -> %s", at, value(x), value(y)))
		}
	}
	return out
}

// named says of each field that differs what became of it.
func named(a, b map[string]json.RawMessage) (out []string) {
	for _, name := range keys(a, b) {
		switch {
		case bytes.Equal(a[name], b[name]):
		case a[name] == nil:
			out = append(out, name+" added")
		case b[name] == nil:
			out = append(out, name+" removed")
		default:
			out = append(out, name+" changed")
		}
	}
	return out
}

func value(raw json.RawMessage) string {
	if raw == nil {
		return "none"
	}
	s := string(raw)
	if len(s) > maxValue {
		s = strings.ToValidUTF8(s[:maxValue], "") + "…"
	}
	return s
}

func first(raw json.RawMessage) byte {
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}

func keys(a, b map[string]json.RawMessage) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]json.RawMessage{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

// fields are the JSON fields of a value.
func fields(v any) map[string]json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		return map[string]json.RawMessage{"value": fmt.Appendf(nil, "%q", fmt.Sprintf("%#v", v))}
	}
	return open(raw)
}

// open returns the fields of an object, none for anything else.
func open(raw json.RawMessage) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	if json.Unmarshal(raw, &out) != nil {
		return nil
	}
	return out
}
