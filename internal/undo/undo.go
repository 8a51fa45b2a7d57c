// Package undo collects what to take back when a piece of work fails half-way.
package undo

import "errors"

// Stack holds undo functions. The zero value is ready. Use it as
//
//	var u undo.Stack
//	defer u.Run(&err)
//	... acquire ...; u.Add(release)
//
// It is not safe for concurrent use.
type Stack struct {
	fns []func() error
}

// Add puts fn on top of the stack.
func (s *Stack) Add(fn func() error) { s.fns = append(s.fns, fn) }

// Run takes everything back, last first, when *err is not nil. It goes on after an
// error and joins what failed to *err. With *err nil it only forgets the stack.
func (s *Stack) Run(err *error) {
	fns := s.fns
	s.fns = nil
	if *err == nil {
		return
	}
	for i := len(fns) - 1; i >= 0; i-- {
		if e := fns[i](); e != nil {
			*err = errors.Join(*err, e)
		}
	}
}
