package desired

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"unicode/utf8"

	"mvm"
)

// Decode reads a document and checks the whole of it. It is strict: a field that is
// not known, or there twice, or of a wrong type, or missing where it must be there, is
// an error of KindInvalid that wraps Problems, each with the path of its field. What
// may be left out has its default afterwards. At most MaxBytes are read.
func Decode(data []byte) (Document, error) {
	var doc Document
	if err := decode("desired state", MaxBytes, data, &doc); err != nil {
		return Document{}, err
	}
	if err := doc.Validate(); err != nil {
		return Document{}, err
	}
	return doc, nil
}

// decode reads strict JSON of at most limit bytes into the struct; what names it in
// errors.
func decode(what string, limit int, data []byte, into any) error {
	if err := wellFormed(what, limit, data); err != nil {
		return err
	}
	d := decoder{json: json.NewDecoder(bytes.NewReader(data))}
	d.json.UseNumber()
	d.value(reflect.ValueOf(into).Elem(), "")
	return d.problems.err(what)
}

// wellFormed checks size, encoding and syntax, so that what walks the text next meets
// none of these. The message counts lines and columns from 1.
func wellFormed(what string, limit int, data []byte) error {
	if len(data) > limit {
		return mvm.Errorf(mvm.KindInvalid, "%s: it has %d bytes, more than %d", what, len(data), limit)
	}
	if !utf8.Valid(data) {
		return mvm.Errorf(mvm.KindInvalid, "%s: it is not UTF-8", what)
	}
	var raw json.RawMessage
	err := json.Unmarshal(data, &raw)
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		before := data[:max(0, min(int(syntax.Offset), len(data))-1)]
		line, column := 1+bytes.Count(before, []byte("\n")), len(before)-bytes.LastIndexByte(before, '\n')
		return mvm.Errorf(mvm.KindInvalid, "%s: line %d, column %d: %v", what, line, column, err)
	}
	return mvm.Errorf(mvm.KindInvalid, "%s: %v", what, err)
}

// decoder walks well-formed JSON along a type. It goes on after a problem, as far as
// there is room for more, so that a person sees them together.
type decoder struct {
	json     *json.Decoder
	problems Problems
	depth    int
	broken   bool // the walk can't go on
}

func (d *decoder) done() bool { return d.broken || d.problems.full() }

// stop ends the walk with a problem.
func (d *decoder) stop(path, format string, args ...any) {
	d.problems.add(path, format, args...)
	d.broken = true
}

// presetter is a struct whose absent fields have values of their own.
type presetter interface{ preset() }

// value reads the next value into v.
func (d *decoder) value(v reflect.Value, path string) {
	if d.done() {
		return
	}
	if p, ok := v.Addr().Interface().(presetter); ok {
		p.preset()
	}
	if isText(v.Addr().Interface()) {
		d.text(v, path)
		return
	}
	t, err := d.json.Token()
	if err != nil {
		d.stop(path, "%v", err)
		return
	}
	if t == nil && nullable(v.Kind()) {
		return // as if it were absent
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch t := t.(type) {
	case json.Delim:
		d.nested(t, v, path)
	default:
		if err := scalar(t, v); err != nil {
			d.problems.add(path, "%v", err)
		}
	}
}

func nullable(k reflect.Kind) bool {
	return k == reflect.Pointer || k == reflect.Slice || k == reflect.Map
}

// isText reports that the value knows its own JSON.
func isText(p any) bool {
	switch p.(type) {
	case json.Unmarshaler, encoding.TextUnmarshaler:
		return true
	}
	return false
}

// text lets a value read its JSON itself, after what it would let pass was checked.
func (d *decoder) text(v reflect.Value, path string) {
	var raw json.RawMessage
	if err := d.json.Decode(&raw); err != nil {
		d.stop(path, "%v", err)
		return
	}
	inner := decoder{json: json.NewDecoder(bytes.NewReader(raw)), depth: d.depth}
	inner.json.UseNumber()
	inner.skip(path)
	if len(inner.problems) > 0 {
		d.problems = append(d.problems, inner.problems[0])
		d.broken = d.broken || inner.broken
		return
	}
	if string(raw) == "null" {
		d.problems.add(path, "is null, and may only be left out")
		return
	}
	if err := json.Unmarshal(raw, v.Addr().Interface()); err != nil {
		d.problems.add(path, "%s is not valid: %s", clip(string(raw)), clip(err.Error()))
	}
}

// nested reads an object or a list.
func (d *decoder) nested(open json.Delim, v reflect.Value, path string) {
	if d.depth++; d.depth > MaxDepth {
		d.stop(path, "is nested deeper than %d", MaxDepth)
		return
	}
	defer func() { d.depth-- }()
	switch {
	case open == '{' && v.Kind() == reflect.Struct:
		d.need(v, path, d.object(path, d.fields(v)))
	case open == '{' && v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		d.object(path, func(key, at string) {
			elem := reflect.New(v.Type().Elem()).Elem()
			d.value(elem, at)
			v.SetMapIndex(reflect.ValueOf(key), elem)
		})
	case open == '[' && v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		d.list(path, func(at string) {
			elem := reflect.New(v.Type().Elem()).Elem()
			d.value(elem, at)
			v.Set(reflect.Append(v, elem))
		})
	default:
		what := map[json.Delim]string{'{': "an object", '[': "a list"}[open]
		d.problems.add(path, "is %s, not %s", what, kind(v))
		d.rest(open, path)
	}
}

// object reads the members of an object that is open and returns their names.
func (d *decoder) object(path string, member func(key, at string)) (seen map[string]bool) {
	seen = map[string]bool{}
	for !d.done() && d.json.More() {
		t, err := d.json.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			d.stop(path, "%v", err)
			return seen
		}
		at := below(path, key)
		if seen[key] {
			d.stop(at, "is given twice")
			return seen
		}
		if seen[key] = true; len(seen) > MaxEntries {
			d.stop(path, "has more than %d entries", MaxEntries)
			return seen
		}
		member(key, at)
	}
	d.end(path)
	return seen
}

// list reads the elements of a list that is open.
func (d *decoder) list(path string, element func(at string)) {
	for n := 0; !d.done() && d.json.More(); n++ {
		if n == MaxEntries {
			d.stop(path, "has more than %d entries", MaxEntries)
			return
		}
		element(path + "[" + strconv.Itoa(n) + "]")
	}
	d.end(path)
}

// end reads the delimiter that ends an object or a list.
func (d *decoder) end(path string) {
	if d.done() {
		return
	}
	if _, err := d.json.Token(); err != nil {
		d.stop(path, "%v", err)
	}
}

// skip reads a value that nobody wants, and checks it for doubles and depth.
func (d *decoder) skip(path string) {
	if d.done() {
		return
	}
	t, err := d.json.Token()
	if err != nil {
		d.stop(path, "%v", err)
		return
	}
	open, ok := t.(json.Delim)
	if !ok {
		return
	}
	if d.depth++; d.depth > MaxDepth {
		d.stop(path, "is nested deeper than %d", MaxDepth)
		return
	}
	d.rest(open, path)
	d.depth--
}

// rest skips what is left of an object or list that is open.
func (d *decoder) rest(open json.Delim, path string) {
	if open == '{' {
		d.object(path, func(_, at string) { d.skip(at) })
		return
	}
	d.list(path, d.skip)
}

// below is the path of a member, in a form that a person can search for.
func below(path, key string) string {
	if key = clip(key); path == "" {
		return key
	}
	return path + "." + key
}

// scalar sets v to a string, number or truth value of its kind.
func scalar(t json.Token, v reflect.Value) error {
	switch t := t.(type) {
	case string:
		if v.Kind() == reflect.String {
			v.SetString(t)
			return nil
		}
		return fmt.Errorf("is a string, not %s", kind(v))
	case bool:
		if v.Kind() == reflect.Bool {
			v.SetBool(t)
			return nil
		}
		return fmt.Errorf("is %t, not %s", t, kind(v))
	case json.Number:
		if !v.CanInt() {
			return fmt.Errorf("is a number, not %s", kind(v))
		}
		n, err := strconv.ParseInt(t.String(), 10, 64)
		if err != nil || v.OverflowInt(n) {
			return fmt.Errorf("%s is not an integer in range", clip(t.String()))
		}
		v.SetInt(n)
		return nil
	}
	return fmt.Errorf("is null, not %s", kind(v))
}

// kind names what v holds, for a person.
func kind(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice:
		return "a list"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	}
	return "an integer"
}
