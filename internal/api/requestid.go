package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"

	"mvm"
)

// RequestHeader carries the id of a request, there and back.
const RequestHeader = "X-Request-Id"

// NewRequestID makes an id that no other request has.
func NewRequestID() string {
	var b [6]byte
	rand.Read(b[:])
	return "r-" + hex.EncodeToString(b[:])
}

// identify gives the request its client's id, or one of its own where the client has
// none that is valid, and tells it in the answer.
func identify(w http.ResponseWriter, r *http.Request) *http.Request {
	id := mvm.RequestID(r.Header.Get(RequestHeader))
	if id == "" {
		id = NewRequestID()
	}
	w.Header().Set(RequestHeader, id)
	return r.WithContext(mvm.WithRequest(r.Context(), id))
}

// bodyOf makes an error ready for the wire, with the id of its request.
func bodyOf(ctx context.Context, err error) *errorBody {
	b := toBody(err)
	b.Request = mvm.RequestFrom(ctx)
	return b
}
