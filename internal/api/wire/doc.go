// Package wire is the form that nouns have in the API: types of the API's own, with the names
// and the order of fields that are sent. A noun may get other names, and what clients see stays
// as it is: what changes is the conversion here. Each type has Of and Noun, one the inverse of
// the other.
//
// Where the fields of both are alike the conversion is Go's own, which doesn't compile once they
// are not. Text and numbers with a name (mvm.State, mvm.Asker) and selectors have a form of
// their own, the same everywhere, and are used as they are.
package wire

// one converts what a pointer leads to.
func one[A, B any](v *A, to func(A) B) *B {
	if v == nil {
		return nil
	}
	out := to(*v)
	return &out
}

// each converts a list. One that is nil stays nil, since JSON tells it from an empty one.
func each[A, B any](list []A, to func(A) B) []B {
	if list == nil {
		return nil
	}
	out := make([]B, len(list))
	for n, v := range list {
		out[n] = to(v)
	}
	return out
}

// Form is a type of this package for the noun N.
type Form[W, N any] interface {
	Of(noun N) W
	Noun() N
}

// To returns what answers with a noun, or with why there is none, in the form W.
func To[W Form[W, N], N any](noun N, err error) (W, error) {
	var form W
	if err != nil {
		return form, err
	}
	return form.Of(noun), nil
}

// From is the inverse of To.
func From[W Form[W, N], N any](form W, err error) (N, error) {
	var noun N
	if err != nil {
		return noun, err
	}
	return form.Noun(), nil
}

// ToList is To for a list. It has an empty one for one that is nil.
func ToList[W Form[W, N], N any](nouns []N, err error) ([]W, error) {
	if err != nil || nouns == nil {
		return []W{}, err
	}
	var form W
	return each(nouns, form.Of), nil
}

// FromList is From for a list.
func FromList[W Form[W, N], N any](forms []W, err error) ([]N, error) {
	if err != nil {
		return nil, err
	}
	return each(forms, W.Noun), nil
}
