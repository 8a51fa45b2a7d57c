// Package known has code of which it is known what its tests notice.
package known

import "errors"

// Least is the lesser of two.
func Least(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// Unchecked has no test.
func Unchecked(n int) bool {
	if n > 10 {
		return true
	}
	return false
}

// Wait ends when n is used up.
func Wait(n int) {
	for n > 0 {
		n--
	}
}

var errOdd = errors.New("it is odd")

// Half halves an even number.
func Half(n int) (int, error) {
	if n%2 != 0 {
		return 0, errOdd
	}
	x := n / 2
	return x, nil
}
