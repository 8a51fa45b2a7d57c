package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	toml "github.com/pelletier/go-toml/v2"

	"mvm"
	"mvm/internal/spelling"
)

// document is a file that is being read, with the problems found so far.
type document struct {
	file     string
	problems Problems
	// params says which values are those of parameters of a template.
	params map[*mark]string
}

// from notes that the value is that of a parameter.
func (d *document) from(m *mark, param string) {
	if d.params == nil {
		d.params = map[*mark]string{}
	}
	d.params[m] = param
}

// table reads the keys of one table. Every key that was asked for is known; done
// reports the others. A nil table has no keys, so that a reader need not ask
// whether an optional table is there.
type table struct {
	doc   *document
	path  string
	mark  *mark
	vals  map[string]any
	asked []string
}

// open is parse for data of any size. It fails where there is too much.
func open(file string, data []byte) (*document, *table, error) {
	if len(data) > MaxFileBytes {
		return nil, nil, mvm.Errorf(mvm.KindInvalid, "read %s: it has more than %d bytes", file, MaxFileBytes)
	}
	doc, root := parse(file, data)
	return doc, root, nil
}

// parse decodes the data and returns its root table; nil when it is no TOML.
func parse(file string, data []byte) (*document, *table) {
	data = withoutBOM(data)
	doc := &document{file: file}
	root, problem := marks(file, data)
	if problem != nil {
		doc.problems = append(doc.problems, problem)
		return doc, nil
	}
	vals := map[string]any{}
	if err := toml.Unmarshal(data, &vals); err != nil {
		doc.problems = append(doc.problems, syntaxProblem(file, err))
		return doc, nil
	}
	return doc, &table{doc: doc, mark: root, vals: vals}
}

// withoutBOM skips the byte order mark that some editors write.
func withoutBOM(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) }

func syntaxProblem(file string, err error) *Problem {
	p := &Problem{File: file, Text: strings.TrimPrefix(err.Error(), "toml: ")}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		p.Line, p.Column = at.Position()
		p.Key = strings.Join(at.Key(), ".")
	}
	return p
}

// here is the table itself as an item, for problems with the whole of it.
func (t *table) here() item { return item{doc: t.doc, path: t.path, mark: t.mark, val: t.vals} }

// get returns the value of a key and whether it is there.
func (t *table) get(key string) (item, bool) {
	if t == nil {
		return item{}, false
	}
	t.asked = append(t.asked, key)
	v, ok := t.vals[key]
	return t.item(key, v), ok
}

func (t *table) item(key string, v any) item {
	path := clip(key)
	if t.path != "" {
		path = t.path + "." + path
	}
	return item{doc: t.doc, path: path, mark: t.mark.key(key), val: v}
}

// need is get for a key that must be there.
func (t *table) need(key string) (item, bool) {
	i, ok := t.get(key)
	if !ok && t != nil {
		t.here().problem("%s is missing", key)
	}
	return i, ok
}

// str reads an optional string into dst and checks it.
func (t *table) str(key string, dst *string, check func(string) error) {
	if i, ok := t.get(key); ok {
		i.strInto(dst, check)
	}
}

// needStr reads a string that must be there.
func (t *table) needStr(key string, dst *string, check func(string) error) {
	if i, ok := t.need(key); ok {
		i.strInto(dst, check)
	}
}

// integer reads an optional integer of the range into dst and says whether it did.
func (t *table) integer(key string, dst *int, low, high int) bool {
	i, ok := t.get(key)
	return ok && i.intInto(dst, low, high)
}

func (t *table) boolean(key string, dst *bool) {
	if i, ok := t.get(key); ok {
		if b, ok := i.val.(bool); ok {
			*dst = b
		} else {
			i.wrongType("a boolean")
		}
	}
}

// items returns the elements of an optional array of at most limit elements.
func (t *table) items(key string, limit int) ([]item, bool) {
	i, ok := t.get(key)
	if !ok {
		return nil, false
	}
	list, ok := i.val.([]any)
	if !ok {
		i.wrongType("an array")
		return nil, false
	}
	if len(list) > limit {
		i.problem("has %d elements, more than %d", len(list), limit)
		return nil, false
	}
	out := make([]item, len(list))
	for n, v := range list {
		out[n] = item{doc: t.doc, path: fmt.Sprintf("%s[%d]", i.path, n), mark: i.mark, val: v}
		if n < len(i.mark.elems) {
			out[n].mark = i.mark.elems[n]
		}
	}
	return out, true
}

// sub returns an optional table, nil when it is not there.
func (t *table) sub(key string) *table {
	if i, ok := t.get(key); ok {
		return i.table()
	}
	return nil
}

// tables returns the tables of an optional array of tables.
func (t *table) tables(key string, limit int) []*table {
	list, _ := t.items(key, limit)
	var out []*table
	for _, i := range list {
		if sub := i.table(); sub != nil {
			out = append(out, sub)
		}
	}
	return out
}

// names returns the keys of the table, sorted.
func (t *table) names() []string {
	names := make([]string, 0, len(t.vals))
	for key := range t.vals {
		names = append(names, key)
	}
	slices.Sort(names)
	return names
}

// done reports every key that nobody asked for.
func (t *table) done() {
	if t == nil {
		return
	}
	for _, key := range t.names() {
		if slices.Contains(t.asked, key) {
			continue
		}
		hint := ""
		if near := spelling.Nearest(key, t.asked); near != "" {
			hint = fmt.Sprintf(" (did you mean %s?)", near)
		}
		t.item(key, nil).problem("unknown key%s", hint)
	}
}
