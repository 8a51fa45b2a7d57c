package stricttoml

import "fmt"

// Item is an element of an array, or a value of a table, with its place.
type Item struct {
	doc  *Document
	Path string
	Mark *Mark
	Val  any
}

func (i Item) Problem(format string, args ...any) {
	p := &Problem{File: i.doc.file, Line: i.Mark.Line, Column: i.Mark.Column, Key: i.Path, Text: fmt.Sprintf(format, args...), param: i.doc.params[i.Mark]}
	if p.param != "" {
		p.Text += " (parameter " + p.param + ")"
	}
	i.doc.Problems = append(i.doc.Problems, p)
}

// Check reports an error, if there is one, and says whether there is none.
func (i Item) Check(err error) bool {
	if err != nil {
		i.Problem("%s", err)
	}
	return err == nil
}

func (i Item) WrongType(want string) { i.Problem("is %s, must be %s", TypeName(i.Val), want) }

// TypeName is what TOML calls the type of a value.
func TypeName(v any) string {
	switch v := v.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	default:
		return fmt.Sprintf("a %T", v)
	}
}

func (i Item) Str() (string, bool) {
	s, ok := i.Val.(string)
	if !ok {
		i.WrongType("a string")
	}
	return s, ok
}

func (i Item) StrInto(dst *string, check func(string) error) {
	if s, ok := i.Str(); ok && (check == nil || i.Check(check(s))) {
		*dst = s
	}
}

func (i Item) IntInto(dst *int, low, high int) bool {
	n, ok := i.Val.(int64)
	switch {
	case !ok:
		i.WrongType("an integer")
		return false
	case n < int64(low) || n > int64(high):
		i.Problem("%d is not in %d..%d", n, low, high)
		return false
	}
	*dst = int(n)
	return true
}

// Table is the item as a table, nil when it is something else.
func (i Item) Table() *Table {
	vals, ok := i.Val.(map[string]any)
	if !ok {
		i.WrongType("a table")
		return nil
	}
	return &Table{Doc: i.doc, path: i.Path, mark: i.Mark, Vals: vals}
}

// Key finds a key below the item, for a problem with it.
func (i Item) Key(key string) Item {
	i.Path += "." + key
	if i.Mark.keys[key] != nil {
		i.Mark = i.Mark.keys[key]
	}
	return i
}
