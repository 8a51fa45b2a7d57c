package manifest

import (
	"fmt"
	"regexp"
	"strings"

	"mvm/internal/stricttoml"
)

// filler puts the values of parameters into a template. A value is a parameter's where it
// is "${name}" and nothing else; a key whose parameter is not set is left out.
type filler struct {
	doc    *stricttoml.Document
	params []Param
	values values
}

// reference is a value that stands for a parameter.
var reference = regexp.MustCompile(`^\$\{([a-z][a-z0-9_]*)\}$`)

// key fills one key of a table.
func (f *filler) key(t *stricttoml.Table, key string) {
	v, ok := t.Vals[key]
	if !ok {
		return
	}
	if v, ok = f.value(v, t.Item(key, nil), false); ok {
		t.Vals[key] = v
	} else {
		delete(t.Vals, key)
	}
}

// value returns what v is with the values in it, and whether it is there at all. text says
// that it must be text, as the environment is.
func (f *filler) value(v any, at stricttoml.Item, text bool) (out any, ok bool) {
	switch v := v.(type) {
	case string:
		return f.text(v, at, text)
	case map[string]any:
		for key, e := range v {
			if e, ok := f.value(e, at.Key(key), text || key == "env"); ok {
				v[key] = e
			} else {
				delete(v, key)
			}
		}
	case []any:
		return f.list(v, at, text), true
	}
	return v, true
}

func (f *filler) list(v []any, at stricttoml.Item, text bool) []any {
	out := []any{}
	marks := at.Mark.Elems
	at.Mark.Elems = nil
	for n, e := range v {
		one := at
		one.Path = fmt.Sprintf("%s[%d]", at.Path, n)
		if n < len(marks) {
			one.Mark = marks[n]
		}
		if e, ok := f.value(e, one, text); ok {
			out = append(out, e)
			at.Mark.Elems = append(at.Mark.Elems, one.Mark)
		}
	}
	return out
}

func (f *filler) text(s string, at stricttoml.Item, text bool) (any, bool) {
	m := reference.FindStringSubmatch(s)
	if m == nil {
		for _, p := range f.params {
			if strings.Contains(s, "${"+p.Name+"}") {
				at.Problem("a parameter must be the whole value: \"${%s}\"", p.Name)
			}
		}
		return s, true
	}
	p, ok := findParam(f.params, m[1])
	if !ok {
		at.Problem("there is no parameter %s%s", stricttoml.Clip(m[1]), didYouMean(m[1], f.params))
		return nil, false
	}
	if strings.HasSuffix(at.Path, "].id") || strings.HasSuffix(at.Path, "].role") {
		at.Problem("cannot be a parameter: overrides name pools by id, and know their roles")
	}
	v, ok := f.values[p.Name]
	if !ok {
		return nil, false
	}
	f.doc.FromParam(at.Mark, p.Name)
	if _, list := v.([]any); text && !list {
		v = fmt.Sprint(v)
	}
	return v, true
}
