package secrets

import (
	"slices"

	"mvm"
)

// Scope returns what the guests of a pool get, by path below /run/secrets: without
// scopes every secret under its name, with scopes only the listed ones, under
// <integration>/<KEY>. missing are the paths of listed secrets that the tenant does
// not have, sorted; they are left out.
func Scope(spec mvm.PoolSpec, values map[string][]byte) (files map[string][]byte, missing []string) {
	files = map[string][]byte{}
	if len(spec.SecretScopes) == 0 {
		for name, v := range values {
			files[name] = v
		}
		return files, nil
	}
	for _, scope := range spec.SecretScopes {
		for _, key := range scope.Keys {
			path := scope.Integration + "/" + key
			if v, ok := values[key]; ok {
				files[path] = v
			} else {
				missing = append(missing, path)
			}
		}
	}
	slices.Sort(missing)
	return files, missing
}
