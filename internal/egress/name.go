package egress

import (
	"net/netip"
	"strings"
	"unicode"
)

// looksLikeName reports whether a name is meant: no address has such a letter or a star.
func looksLikeName(text string) bool {
	where, _, _ := strings.Cut(text, ":")
	where, _, _ = strings.Cut(where, "/")
	return strings.ContainsFunc(where, func(r rune) bool {
		return r == '*' || r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r > '~'
	})
}

// readName returns the name as it is kept, or what is wrong with it.
func readName(text string) (name, why string) {
	if strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "", "this is no name: write letters beyond a to z as xn--" // some have a lower case that is ASCII
	}
	if strings.ContainsAny(text, ":/") {
		return "", "a name is for every port and protocol: write it alone"
	}
	name = strings.TrimSuffix(strings.ToLower(text), ".")
	plain, wild := strings.CutPrefix(name, "*.")
	labels := strings.Split(plain, ".")
	if len(plain) > 253 || !wild && len(labels) < 2 {
		return "", "this is no full name, such as api.example.com"
	}
	for _, l := range labels {
		if !isLabel(l) {
			return "", "this is no name: its parts have letters, digits, - and _, and a star is alone at the front (*.example.com); write other letters as xn--"
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return "", "this is no IPv4 address, and no name ends with a number"
	}
	return name, ""
}

func isLabel(l string) bool {
	ok := func(r rune) bool { return r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }
	return len(l) >= 1 && len(l) <= 63 && l[0] != '-' && l[len(l)-1] != '-' && !strings.ContainsFunc(l, func(r rune) bool { return !ok(r) })
}

// Named reports whether the list has a name: its guests then reach only what it has.
func Named(list []Destination) bool {
	for _, d := range list {
		if d.Name != "" {
			return true
		}
	}
	return false
}

// AllowsName reports whether guests with the list may ask for the name, which is in lower
// case and has no dot at its end.
func AllowsName(list []Destination, name string) bool {
	named := false
	for _, d := range list {
		named = named || d.Name != ""
		below, wild := strings.CutPrefix(d.Name, "*")
		if d.Name != "" && (name == d.Name || wild && len(name) > len(below) && strings.HasSuffix(name, below)) {
			return true
		}
	}
	return !named
}

// AllowsAddress reports whether a name may lead guests with the list to the IPv4 address:
// one of the internet, or one in a range that the list opens.
func AllowsAddress(list []Destination, a netip.Addr) bool {
	for p := range never {
		if p.Contains(a) {
			return false
		}
	}
	for _, d := range list {
		if d.Name == "" && d.Prefix.Contains(a) {
			return true
		}
	}
	for _, p := range private {
		if p.Contains(a) {
			return false
		}
	}
	return a.Is4()
}
