package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"mvm"
	"mvm/internal/api/socket"
	"mvm/internal/api/wire"
)

// Exec implements Service. When the context ends the command is killed. A Read of
// Stdin that is under way when the command ends is not waited for.
func (c *Client) Exec(ctx context.Context, addr mvm.Address, spec mvm.ExecSpec, streams mvm.ExecIO) (int, error) {
	return c.session(ctx, instancePath(addr)+"/exec", wire.ExecSpec{}.Of(spec), streams)
}

// Copy implements Service, like Exec.
func (c *Client) Copy(ctx context.Context, addr mvm.Address, spec mvm.CopySpec, streams mvm.ExecIO) (int, error) {
	return c.session(ctx, instancePath(addr)+"/copy", wire.CopySpec{}.Of(spec), streams)
}

// session carries streams over a WebSocket until the other side says how it ended.
func (c *Client) session(ctx context.Context, path string, spec any, streams mvm.ExecIO) (int, error) {
	first, err := json.Marshal(spec)
	if err != nil {
		return -1, mvm.Errorf(mvm.KindInternal, "encode request: %w", err)
	}
	header := http.Header{}
	if id := mvm.RequestFrom(ctx); id != "" {
		header.Set(RequestHeader, id)
	}
	conn, err := socket.Dial(ctx, c.http, c.base+path, header)
	var refused *socket.Refused
	switch {
	case errors.As(err, &refused):
		return -1, fromStatus(refused.Status, refused.Body)
	case err != nil:
		return -1, c.explain(ctx, err)
	}
	last, err := socket.Run(ctx, conn, first, streams)
	var lost *socket.LostError
	switch {
	case errors.As(err, &lost):
		return -1, c.explain(ctx, lost.Err)
	case err != nil:
		return -1, err
	}
	var end execEnd
	if err := json.Unmarshal(last, &end); err != nil {
		return -1, mvm.Errorf(mvm.KindInvalid, "exec: read how the command ended: %w", err)
	}
	if end.Error != nil {
		return -1, fromBody(end.Error)
	}
	return end.Code, nil
}
