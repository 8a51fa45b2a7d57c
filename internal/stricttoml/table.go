package stricttoml

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

// MaxBytes bounds a file that is read.
const MaxBytes = 1 << 20

// Document is a file that is being read, with the problems found so far.
type Document struct {
	Problems Problems
	file     string
	// params says which values are those of parameters of a template.
	params map[*Mark]string
}

// FromParam notes that the value is that of a parameter of a template.
func (d *Document) FromParam(m *Mark, param string) {
	if d.params == nil {
		d.params = map[*Mark]string{}
	}
	d.params[m] = param
}

// Table reads the keys of one table. Every key that was asked for is known; Done
// reports the others. A nil table has no keys, so that a reader need not ask
// whether an optional table is there.
type Table struct {
	Doc   *Document
	path  string
	mark  *Mark
	Vals  map[string]any
	asked []string
}

// Open is Parse for data of any size. It fails where there is too much.
func Open(file string, data []byte) (*Document, *Table, error) {
	if len(data) > MaxBytes {
		return nil, nil, mvm.Errorf(mvm.KindInvalid, "read %s: it has more than %d bytes", file, MaxBytes)
	}
	doc, root := Parse(file, data)
	return doc, root, nil
}

// Parse decodes the data, at most MaxBytes, and returns its root table; nil when it is
// no TOML.
func Parse(file string, data []byte) (*Document, *Table) {
	data = withoutBOM(data)
	doc := &Document{file: file}
	root, problem := marks(file, data)
	if problem != nil {
		doc.Problems = append(doc.Problems, problem)
		return doc, nil
	}
	vals := map[string]any{}
	if err := toml.Unmarshal(data, &vals); err != nil {
		doc.Problems = append(doc.Problems, syntaxProblem(file, err))
		return doc, nil
	}
	return doc, &Table{Doc: doc, mark: root, Vals: vals}
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

// Here is the table itself as an item, for problems with the whole of it.
func (t *Table) Here() Item { return Item{doc: t.Doc, Path: t.path, Mark: t.mark, Val: t.Vals} }

// Get returns the value of a key and whether it is there.
func (t *Table) Get(key string) (Item, bool) {
	if t == nil {
		return Item{}, false
	}
	t.asked = append(t.asked, key)
	v, ok := t.Vals[key]
	return t.Item(key, v), ok
}

func (t *Table) Item(key string, v any) Item {
	path := Clip(key)
	if t.path != "" {
		path = t.path + "." + path
	}
	return Item{doc: t.Doc, Path: path, Mark: t.mark.key(key), Val: v}
}

// Need is get for a key that must be there.
func (t *Table) Need(key string) (Item, bool) {
	i, ok := t.Get(key)
	if !ok && t != nil {
		t.Here().Problem("%s is missing", key)
	}
	return i, ok
}

// Str reads an optional string into dst and checks it.
func (t *Table) Str(key string, dst *string, check func(string) error) {
	if i, ok := t.Get(key); ok {
		i.StrInto(dst, check)
	}
}

// NeedStr reads a string that must be there.
func (t *Table) NeedStr(key string, dst *string, check func(string) error) {
	if i, ok := t.Need(key); ok {
		i.StrInto(dst, check)
	}
}

// Integer reads an optional integer of the range into dst and says whether it did.
func (t *Table) Integer(key string, dst *int, low, high int) bool {
	i, ok := t.Get(key)
	return ok && i.IntInto(dst, low, high)
}

func (t *Table) Boolean(key string, dst *bool) {
	if i, ok := t.Get(key); ok {
		if b, ok := i.Val.(bool); ok {
			*dst = b
		} else {
			i.WrongType("a boolean")
		}
	}
}

// Items returns the elements of an optional array of at most limit elements.
func (t *Table) Items(key string, limit int) ([]Item, bool) {
	i, ok := t.Get(key)
	if !ok {
		return nil, false
	}
	list, ok := i.Val.([]any)
	if !ok {
		i.WrongType("an array")
		return nil, false
	}
	if len(list) > limit {
		i.Problem("has %d elements, more than %d", len(list), limit)
		return nil, false
	}
	out := make([]Item, len(list))
	for n, v := range list {
		out[n] = Item{doc: t.Doc, Path: fmt.Sprintf("%s[%d]", i.Path, n), Mark: i.Mark, Val: v}
		if n < len(i.Mark.Elems) {
			out[n].Mark = i.Mark.Elems[n]
		}
	}
	return out, true
}

// Sub returns an optional table, nil when it is not there.
func (t *Table) Sub(key string) *Table {
	if i, ok := t.Get(key); ok {
		return i.Table()
	}
	return nil
}

// Tables returns the tables of an optional array of tables.
func (t *Table) Tables(key string, limit int) []*Table {
	list, _ := t.Items(key, limit)
	var out []*Table
	for _, i := range list {
		if sub := i.Table(); sub != nil {
			out = append(out, sub)
		}
	}
	return out
}

// Element finds an element of an array of the table, for a problem with it.
func (t *Table) Element(key string, n int) Item {
	i := t.Item(key, t.Vals[key])
	i.Path = fmt.Sprintf("%s[%d]", i.Path, n)
	if n < len(i.Mark.Elems) {
		i.Mark = i.Mark.Elems[n]
	}
	return i
}

// Anew is the table to be read once more, where its problems are known already.
func (t *Table) Anew() *Table {
	fresh := *t
	fresh.Doc, fresh.asked = &Document{}, nil
	return &fresh
}

// Names returns the keys of the table, sorted.
func (t *Table) Names() []string {
	names := make([]string, 0, len(t.Vals))
	for key := range t.Vals {
		names = append(names, key)
	}
	slices.Sort(names)
	return names
}

// Done reports every key that nobody asked for.
func (t *Table) Done() {
	if t == nil {
		return
	}
	for _, key := range t.Names() {
		if slices.Contains(t.asked, key) {
			continue
		}
		hint := ""
		if near := spelling.Nearest(key, t.asked); near != "" {
			hint = fmt.Sprintf(" (did you mean %s?)", near)
		}
		t.Item(key, nil).Problem("unknown key%s", hint)
	}
}
