package roster

import (
	"crypto/rand"
	"encoding/hex"
)

func newRequestID() string {
	var b [6]byte
	rand.Read(b[:])
	return "g-" + hex.EncodeToString(b[:])
}
