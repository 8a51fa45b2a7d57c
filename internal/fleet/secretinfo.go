package fleet

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"mvm"
)

// secretInfo tells of the values that take the place of the former ones with a new
// generation. What keeps its value keeps what was known of it.
func secretInfo(known []mvm.SecretInfo, was, now map[string][]byte, gen int) (out []mvm.SecretInfo) {
	for _, name := range slices.Sorted(maps.Keys(now)) {
		n := slices.IndexFunc(known, func(s mvm.SecretInfo) bool { return s.Name == name })
		switch old, had := was[name]; {
		case !had || !bytes.Equal(old, now[name]):
			out = append(out, mvm.SecretInfo{Name: name, Generation: gen, SetAt: time.Now(), Bytes: len(now[name])})
		case n >= 0:
			out = append(out, known[n])
		default: // it was set before anything of it was noted
			out = append(out, mvm.SecretInfo{Name: name, Bytes: len(now[name])})
		}
	}
	return out
}
