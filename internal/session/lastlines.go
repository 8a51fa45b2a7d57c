package session

import (
	"context"
	"errors"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
)

// Bounds of the last lines of a log.
const (
	lastLinesKept    = 10
	lastLinesRead    = 100 // of a guest that sends more than it was asked for
	lastLinesTimeout = 3 * time.Second
)

var errEnough = errors.New("enough lines were read")

// LastLines are the last lines of a service's log, none where the guest gives none.
func (s *Sessions) LastLines(ctx context.Context, id, service string) (lines []string) {
	ctx, cancel := context.WithTimeout(ctx, lastLinesTimeout)
	defer cancel()
	c, err := s.opt.Guests.Dial(ctx, id)
	if err != nil {
		return nil
	}
	defer c.Close()
	release := guestproto.Bind(ctx, c)
	defer release()
	if err := guestproto.Send(c, guestproto.Request{Logs: &guestproto.Logs{Service: service, Tail: lastLinesKept}}); err != nil {
		return nil
	}
	read := 0
	_, _ = receiveLogs(c, func(l mvm.LogLine) error { // what came is shown
		if lines = append(lines, display.Clip(l.Text)); len(lines) > lastLinesKept {
			lines = lines[1:]
		}
		if read++; read == lastLinesRead {
			return errEnough
		}
		return nil
	})
	return lines
}
