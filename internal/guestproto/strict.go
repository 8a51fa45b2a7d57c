package guestproto

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a message; the deepest of ours has 7 levels.
const maxDepth = 32

// shape is what a scan finds out about a value that is an object.
type shape struct {
	keys  int // of the outermost object
	key   string
	value int // where the value of the first key begins
}

// scan checks what encoding/json lets pass in JSON that is well-formed: a key that
// is twice in an object, and deep nesting. Of other bytes it only promises to end.
func scan(b []byte) (shape, error) {
	var found shape
	var open []map[string]struct{} // nil for an array
	isKey := false                 // the next string is one
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{':
			open = append(open, map[string]struct{}{})
			isKey = true
		case '[':
			open = append(open, nil)
			isKey = false
		case '}', ']':
			open = open[:max(0, len(open)-1)]
			isKey = false
		case ',':
			isKey = len(open) > 0 && open[len(open)-1] != nil
		case '"':
			text, err := stringAt(b[i:])
			if err != nil {
				return found, err
			}
			i += len(text) - 1
			if !isKey {
				continue
			}
			isKey = false
			key, err := addKey(open[len(open)-1], text)
			if err != nil {
				return found, err
			}
			if len(open) == 1 {
				found.add(key, b, i)
			}
		}
		if len(open) > maxDepth {
			return found, fmt.Errorf("nested deeper than %d", maxDepth)
		}
	}
	return found, nil
}

// add counts a key of the outermost object, which ends at b[end].
func (s *shape) add(key string, b []byte, end int) {
	if s.keys++; s.keys > 1 {
		return
	}
	s.key = key
	for s.value = end + 1; s.value < len(b); s.value++ {
		if b[s.value] == ':' {
			s.value++
			return
		}
	}
}

// stringAt returns the string that b begins with, with its quotes.
func stringAt(b []byte) ([]byte, error) {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return b[:i+1], nil
		}
	}
	return nil, errors.New("a string does not end")
}

// addKey adds the key, as encoding/json reads it, and refuses one that is there.
func addKey(keys map[string]struct{}, text []byte) (string, error) {
	key := string(text[1 : len(text)-1])
	if !plain(text) {
		if err := json.Unmarshal(text, &key); err != nil {
			return "", err
		}
	}
	if _, twice := keys[key]; twice {
		return "", fmt.Errorf("key %q is given twice", clip(key))
	}
	keys[key] = struct{}{}
	return key, nil
}

// plain reports that a string means the bytes between its quotes.
func plain(text []byte) bool {
	for _, c := range text {
		if c == '\\' {
			return false
		}
	}
	return utf8.Valid(text)
}
