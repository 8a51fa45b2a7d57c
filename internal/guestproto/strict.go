package guestproto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxDepth bounds the nesting of a message; the deepest of ours has 7 levels.
const maxDepth = 32

// checkJSON checks what encoding/json lets pass: that there is one value and
// nothing after it, no key twice in an object, and no deep nesting.
func checkJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var open []scope
	for {
		tok, err := d.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if open, err = step(open, tok); err != nil {
			return err
		}
		if len(open) == 0 {
			break
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the message")
	}
	return nil
}

// scope is an array (nil keys) or object that is open.
type scope struct {
	keys  map[string]struct{}
	value bool // the next token is the value of a key
}

// step takes one token into account and returns the scopes that are open after it.
func step(open []scope, tok json.Token) ([]scope, error) {
	var top *scope
	if len(open) > 0 {
		top = &open[len(open)-1]
	}
	if top != nil && top.keys != nil && !top.value && tok != json.Delim('}') {
		key, _ := tok.(string)
		if _, twice := top.keys[key]; twice {
			return open, fmt.Errorf("key %q is there twice", clip(key))
		}
		top.keys[key] = struct{}{}
		top.value = true
		return open, nil
	}
	if top != nil {
		top.value = false
	}
	switch tok {
	case json.Delim('{'):
		open = append(open, scope{keys: map[string]struct{}{}})
	case json.Delim('['):
		open = append(open, scope{})
	case json.Delim('}'), json.Delim(']'):
		open = open[:len(open)-1]
	}
	if len(open) > maxDepth {
		return open, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	return open, nil
}
