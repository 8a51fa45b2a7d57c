package stricttoml

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Mark says where a value stands in a file: the position of its key, or of itself
// in an array, and the marks of what it contains.
type Mark struct {
	Line, Column int
	keys         map[string]*Mark
	Elems        []*Mark
}

// key is where a key stands, or the whole where it is not in the file.
func (m *Mark) key(key string) *Mark {
	if k := m.keys[key]; k != nil {
		return k
	}
	return &Mark{Line: m.Line, Column: m.Column}
}

// maxDepth bounds how deep tables and arrays are nested. The deepest key of ours is
// pools.routes.target.instance_selector.by_key.from.
const maxDepth = 16

// maxMarks bounds the keys and array elements of a file: the decoder's time grows
// with their square.
const maxMarks = 10_000

// marker builds the marks of a file.
type marker struct {
	parser  unstable.Parser
	lines   []int // offset of the start of each line
	count   int
	problem *Problem
}

// marks returns the marks of all that is in the data, and the first place where it
// is nested too deep or has too many values. Syntax errors end it early: decoding the data finds them.
func marks(file string, data []byte) (*Mark, *Problem) {
	m := &marker{lines: lineStarts(data)}
	root := &Mark{Line: 1, Column: 1}
	current := root
	m.parser.Reset(data)
	for m.problem == nil && m.parser.NextExpression() {
		e := m.parser.Expression()
		switch e.Kind {
		case unstable.Table:
			current = m.walk(root, e)
		case unstable.ArrayTable:
			current = m.element(m.walk(root, e), lastKey(e))
		case unstable.KeyValue:
			m.value(m.walk(current, e), e.Value(), 0)
		}
	}
	if m.problem != nil {
		m.problem.File = file
	}
	return root, m.problem
}

func lineStarts(data []byte) []int {
	starts := []int{0}
	for at := 0; ; {
		n := bytes.IndexByte(data[at:], '\n')
		if n < 0 {
			return starts
		}
		at += n + 1
		starts = append(starts, at)
	}
}

func lastKey(e *unstable.Node) *unstable.Node {
	var last *unstable.Node
	for it := e.Key(); it.Next(); {
		last = it.Node()
	}
	return last
}

// walk goes from a mark along the dotted key of an expression, into the last
// element of each array of tables on the way, and makes what is missing.
func (m *marker) walk(at *Mark, e *unstable.Node) *Mark {
	depth := 0
	for it := e.Key(); it.Next(); depth++ {
		n := it.Node()
		if depth == maxDepth {
			m.fail(at, tooDeepText)
			return at
		}
		if len(at.Elems) > 0 {
			at = at.Elems[len(at.Elems)-1]
		}
		next := at.keys[string(n.Data)]
		if next == nil {
			next = m.mark(at, n)
			if at.keys == nil {
				at.keys = map[string]*Mark{}
			}
			at.keys[string(n.Data)] = next
		}
		at = next
	}
	return at
}

// value marks what an array or inline table contains.
func (m *marker) value(at *Mark, v *unstable.Node, depth int) {
	if depth == maxDepth {
		m.fail(at, tooDeepText)
		return
	}
	switch v.Kind {
	case unstable.InlineTable:
		for it := v.Children(); m.problem == nil && it.Next(); {
			if n := it.Node(); n.Kind == unstable.KeyValue {
				m.value(m.walk(at, n), n.Value(), depth+1)
			}
		}
	case unstable.Array:
		for it := v.Children(); m.problem == nil && it.Next(); {
			n := it.Node()
			if n.Kind == unstable.Comment {
				continue
			}
			m.value(m.element(at, n), n, depth+1)
		}
	}
}

var tooDeepText = fmt.Sprintf("nested more than %d levels deep", maxDepth)

// element adds an element to a list.
func (m *marker) element(list *Mark, n *unstable.Node) *Mark {
	elem := m.mark(list, n)
	list.Elems = append(list.Elems, elem)
	return elem
}

// mark makes a mark where the node stands, or where its parent does when the node
// has no place of its own.
func (m *marker) mark(parent *Mark, n *unstable.Node) *Mark {
	out := &Mark{Line: parent.Line, Column: parent.Column}
	if n.Raw.Length > 0 {
		out.Line, out.Column = m.position(n)
	}
	if m.count++; m.count > maxMarks {
		m.fail(out, fmt.Sprintf("the file has more than %d keys and values", maxMarks))
	}
	return out
}

// fail notes the first problem; what follows it need not be marked.
func (m *marker) fail(at *Mark, text string) {
	if m.problem == nil {
		m.problem = &Problem{Line: at.Line, Column: at.Column, Text: text}
	}
}

// position returns line and column of a node that has a place of its own.
func (m *marker) position(n *unstable.Node) (line, column int) {
	offset := int(n.Raw.Offset)
	low, high := 0, len(m.lines)
	for low+1 < high {
		if mid := (low + high) / 2; m.lines[mid] <= offset {
			low = mid
		} else {
			high = mid
		}
	}
	return low + 1, 1 + utf8.RuneCount(m.parser.Data()[m.lines[low]:offset])
}
