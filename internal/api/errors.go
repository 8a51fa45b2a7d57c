package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"mvm"
)

// errorBody is an error on the wire. The kind decides; the status is for people
// and tools that look at HTTP only.
type errorBody struct {
	Kind    mvm.Kind `json:"kind"`
	Message string   `json:"message"`
	Fix     string   `json:"fix,omitempty"`
	Request string   `json:"request,omitempty"`
	// Away: the agent itself shuts down or has too much to do.
	Away bool `json:"away,omitempty"`
}

// statusClientGone is what nginx made customary for "the client closed the request".
const statusClientGone = 499

// kindStatus returns the pairs of error kind and HTTP status; each appears once.
func kindStatus() map[mvm.Kind]int {
	return map[mvm.Kind]int{
		mvm.KindInternal:    http.StatusInternalServerError,
		mvm.KindInvalid:     http.StatusBadRequest,
		mvm.KindNotFound:    http.StatusNotFound,
		mvm.KindExists:      http.StatusConflict,
		mvm.KindQuota:       http.StatusTooManyRequests,
		mvm.KindPolicy:      http.StatusForbidden,
		mvm.KindState:       http.StatusPreconditionFailed,
		mvm.KindLeftAlone:   http.StatusLocked,
		mvm.KindUnavailable: http.StatusServiceUnavailable,
		mvm.KindTimeout:     http.StatusGatewayTimeout,
		mvm.KindCanceled:    statusClientGone,
	}
}

// tooMany refuses a client that asks more than it may at once.
type tooMany struct {
	err   *mvm.Error
	after time.Duration
}

// Error returns the text of the error below.
func (t *tooMany) Error() string { return t.err.Error() }

// Unwrap makes the error one of package mvm.
func (t *tooMany) Unwrap() error { return t.err }

// TooMany is the error for a client that asks more than it may, and may try again after
// some time: KindUnavailable, as status 429 with Retry-After.
func TooMany(after time.Duration, format string, args ...any) error {
	return &tooMany{mvm.Away(format, args...).WithFix("try again in %s", max(after, time.Millisecond).Round(time.Millisecond)), after}
}

// statusOf returns the HTTP status of an error body.
func statusOf(kind mvm.Kind) int {
	if s, ok := kindStatus()[kind]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// kindOfStatus is statusOf backwards, for an answer that is not ours.
func kindOfStatus(status int) mvm.Kind {
	for k, s := range kindStatus() {
		if s == status {
			return k
		}
	}
	return mvm.KindInternal
}

// toBody makes an error ready for the wire. An error without a kind of its own that
// comes from a context gets the kind that says so. What was given up because the agent
// shuts down is unavailable: its client did not cancel it.
func toBody(err error) *errorBody {
	b := kindBody(err)
	if b.Away = errors.Is(err, mvm.ErrAway); b.Away && (b.Kind == mvm.KindCanceled || b.Kind == mvm.KindInternal) {
		b.Kind = mvm.KindUnavailable
	}
	return b
}

func kindBody(err error) *errorBody {
	var e *mvm.Error
	if errors.As(err, &e) {
		fix := fixOf(err)
		return &errorBody{Kind: e.Kind, Message: outerText(err, fix), Fix: fix}
	}
	kind := mvm.KindInternal
	switch {
	case errors.Is(err, context.Canceled):
		kind = mvm.KindCanceled
	case errors.Is(err, context.DeadlineExceeded):
		kind = mvm.KindTimeout
	}
	return &errorBody{Kind: kind, Message: err.Error()}
}

// fixOf is what the first error of the tree that says so says to do.
func fixOf(err error) string {
	if e, ok := err.(*mvm.Error); ok && e.Fix != "" { //nolint:errorlint // each of the tree is looked at
		return e.Fix
	}
	switch e := err.(type) { //nolint:errorlint // likewise
	case interface{ Unwrap() error }:
		return fixOf(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			if fix := fixOf(one); fix != "" {
				return fix
			}
		}
	}
	return ""
}

// outerText keeps what was wrapped around an mvm.Error, without saying its fix twice.
func outerText(err error, fix string) string {
	if fix == "" {
		return err.Error()
	}
	return strings.Replace(err.Error(), " ("+fix+")", "", 1)
}

// fromBody makes the error that the caller of the Client gets.
func fromBody(b *errorBody) error {
	kind := b.Kind
	if _, ok := kindStatus()[kind]; !ok {
		kind = mvm.KindInternal
	}
	return &mvm.Error{Kind: kind, Text: b.Message, Fix: b.Fix, Request: mvm.RequestID(b.Request), Away: b.Away}
}

// fromStatus makes an error of an answer whose body may not be ours.
func fromStatus(status int, body []byte) error {
	var b errorBody
	if json.Unmarshal(body, &b) == nil && b.Message != "" {
		return fromBody(&b)
	}
	return mvm.Errorf(kindOfStatus(status), "agent answered %d %s", status, http.StatusText(status))
}
