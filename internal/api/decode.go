package api

import (
	"bytes"
	"errors"
	"io"
	"mvm/internal/strictjson"
	"net/http"
	"time"

	"mvm"
)

// readBody reads the request's body whole, at most limit bytes and within
// the timeout. It reads even where nothing is expected, so that a disconnect of the
// client is noticed from then on.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, timeout time.Duration) ([]byte, error) {
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "set deadline of request: %w", err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, mvm.Errorf(mvm.KindInvalid, "request body has more than %d bytes", limit)
	case err != nil:
		w.Header().Set("Connection", "close")
		return nil, mvm.Errorf(mvm.KindInvalid, "read request body: %w", err)
	}
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "clear deadline of request: %w", err)
	}
	return body, nil
}

// decodeStrict reads one JSON value into v: unknown fields, trailing data and an
// empty body are errors. For none, the body must be empty.
func decodeStrict(body []byte, v any) error {
	if _, ok := v.(*none); ok {
		if len(bytes.TrimSpace(body)) > 0 {
			return mvm.Errorf(mvm.KindInvalid, "request has a body where none is expected")
		}
		return nil
	}
	err := strictjson.Unmarshal(body, v)
	if err == nil || mvm.KindOf(err) != mvm.KindInternal {
		return err
	}
	return mvm.Errorf(mvm.KindInvalid, "request body: %w", err)
}
