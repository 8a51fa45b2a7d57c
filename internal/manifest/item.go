package manifest

import "fmt"

// item is an element of an array, or a value of a table, with its place.
type item struct {
	doc  *document
	path string
	mark *mark
	val  any
}

func (i item) problem(format string, args ...any) {
	p := &Problem{File: i.doc.file, Line: i.mark.line, Column: i.mark.column, Key: i.path, Text: fmt.Sprintf(format, args...), param: i.doc.params[i.mark]}
	if p.param != "" {
		p.Text += " (parameter " + p.param + ")"
	}
	i.doc.problems = append(i.doc.problems, p)
}

// check reports an error, if there is one, and says whether there is none.
func (i item) check(err error) bool {
	if err != nil {
		i.problem("%s", err)
	}
	return err == nil
}

func (i item) wrongType(want string) { i.problem("is %s, must be %s", typeName(i.val), want) }

func typeName(v any) string {
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

func (i item) str() (string, bool) {
	s, ok := i.val.(string)
	if !ok {
		i.wrongType("a string")
	}
	return s, ok
}

func (i item) strInto(dst *string, check func(string) error) {
	if s, ok := i.str(); ok && (check == nil || i.check(check(s))) {
		*dst = s
	}
}

func (i item) intInto(dst *int, low, high int) bool {
	n, ok := i.val.(int64)
	switch {
	case !ok:
		i.wrongType("an integer")
		return false
	case n < int64(low) || n > int64(high):
		i.problem("%d is not in %d..%d", n, low, high)
		return false
	}
	*dst = int(n)
	return true
}

// table is the item as a table, nil when it is something else.
func (i item) table() *table {
	vals, ok := i.val.(map[string]any)
	if !ok {
		i.wrongType("a table")
		return nil
	}
	return &table{doc: i.doc, path: i.path, mark: i.mark, vals: vals}
}
