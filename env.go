package mvm

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
)

// EnvDigest names an environment by its content, so that it can be told whether an
// instance was booted with the one that its pool has now. It is never empty.
func EnvDigest(env map[string]string) string {
	h := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(env)) {
		h.Write([]byte(strconv.Quote(k) + "=" + strconv.Quote(env[k]) + "\n"))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
