package mvm

import "context"

// maxRequestID bounds the id of a request.
const maxRequestID = 64

// RequestID returns s where it is a valid id of a request: 1 to 64 characters of
// [A-Za-z0-9._-]. Anything else, which may come from outside, is no id: "".
func RequestID(s string) string {
	if len(s) > maxRequestID {
		return ""
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return ""
		}
	}
	return s
}

type requestKey struct{}

// WithRequest says in the context which request the work is for; "" is none.
func WithRequest(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return context.WithValue(ctx, requestKey{}, id)
}

// RequestFrom returns the id of the request that the work is for, "" when it is for none.
func RequestFrom(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}
