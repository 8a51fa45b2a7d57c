package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"

	"mvm"
)

// requestHeader is where a client says the id of its request, which is a stranger's word.
const requestHeader = "X-Request-Id"

func newRequestID() string {
	var b [6]byte
	rand.Read(b[:])
	return "g-" + hex.EncodeToString(b[:])
}

// identified returns the request with its client's id in the context, where it has a
// valid one.
func identified(req *http.Request) *http.Request {
	if id := mvm.RequestID(req.Header.Get(requestHeader)); id != "" {
		return req.WithContext(mvm.WithRequest(req.Context(), id))
	}
	return req
}
