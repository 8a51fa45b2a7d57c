package gateway

import (
	"crypto/rand"
	"encoding/hex"
)

// requestHeader is where a client says the id of its request, which is a stranger's word.
const requestHeader = "X-Request-Id"

func newRequestID() string {
	var b [6]byte
	rand.Read(b[:])
	return "g-" + hex.EncodeToString(b[:])
}
