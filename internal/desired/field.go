package desired

import (
	"reflect"
	"strings"

	"mvm/internal/spelling"
)

// fields returns what reads one member of an object into the struct.
func (d *decoder) fields(v reflect.Value) func(key, at string) {
	names := names(v.Type())
	return func(key, at string) {
		for i, name := range names {
			if name == key {
				d.value(v.Field(i), at)
				return
			}
		}
		hint := ""
		if near := spelling.Nearest(key, names); near != "" {
			hint = " (did you mean " + near + "?)"
		}
		d.problems.add(at, "unknown field%s", hint)
		d.skip(at)
	}
}

// names returns the JSON names of the struct's fields, in their order.
func names(t reflect.Type) []string {
	out := make([]string, t.NumField())
	for i := range out {
		out[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return out
}

// need notes the fields that must be there and are not; null counts as absent.
func (d *decoder) need(v reflect.Value, path string, seen map[string]bool) {
	for i, name := range names(v.Type()) {
		f := v.Field(i)
		absent := !seen[name] || nullable(f.Kind()) && f.IsNil()
		if v.Type().Field(i).Tag.Get("need") != "" && absent && !d.done() {
			d.problems.add(below(path, name), "is missing")
		}
	}
}
