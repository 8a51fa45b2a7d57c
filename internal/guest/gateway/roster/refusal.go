package roster

import (
	"net/http"

	"mvm/internal/guest/gateway/wire"
	"mvm/internal/guestproto"
)

// notInTime is told to who waited for the longest time allowed.
const notInTime = "the instance did not wake in time"

// What a client is told where the host has no instance for it. Why is for the tenant: the
// gateway's log and the host's events have it.
const (
	notNow     = "no instance is available now"
	notAtAll   = "no instance is available"
	tooManyNew = "too many new users come from your address"
	failing    = "the instance runs, but its service does not come up"
)

// hostRefusal is what a client is told when the host did not have an instance awake.
// Where a retry may help it is a 503 with the time that the host names, or a 429 where
// the client's address asked for too much; else a 502: the client did nothing wrong, and
// trying again changes nothing.
func hostRefusal(res guestproto.AcquireResult) *wire.Refusal {
	switch retry := min(res.RetrySecs, 3600); {
	case res.Limited:
		return tooMany(max(retry, 1))
	case res.Failing:
		return wire.Refused(http.StatusServiceUnavailable, max(retry, 1), failing)
	case retry > 0:
		return wire.Refused(http.StatusServiceUnavailable, retry, notNow)
	}
	return wire.Refused(http.StatusBadGateway, 0, notAtAll)
}

func tooMany(retry int) *wire.Refusal {
	return wire.Refused(http.StatusTooManyRequests, retry, tooManyNew)
}

// detailOf is the host's reason, for the log.
func detailOf(res guestproto.AcquireResult) string {
	if res.Detail == nil || *res.Detail == "" {
		return "no reason given"
	}
	return wire.Printable(*res.Detail, wire.MaxDetail)
}
