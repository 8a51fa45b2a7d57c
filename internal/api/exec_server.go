package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"

	"mvm"
	"mvm/internal/api/socket"
	"mvm/internal/api/wire"
)

// execEnd says how a command ended: a code, or why it could not run.
type execEnd struct {
	Code  int        `json:"code"`
	Error *errorBody `json:"error,omitempty"`
}

// session makes a handler that answers by a WebSocket, which carries the streams of what run
// does. Its first message says what that is. When the client hangs up its context ends.
func session[Spec any](s *Server, check func(p params, spec Spec) error, run func(ctx context.Context, addr mvm.Address, spec Spec, io mvm.ExecIO) (int, error)) endpoint {
	return endpoint{shape: asExec, in: reflect.TypeFor[Spec](), out: reflect.TypeFor[execEnd](), serve: func(w http.ResponseWriter, r *http.Request) {
		_, p, err := accept[none](s, w, r, 0)
		if err == nil {
			err = p.needInstance()
		}
		if err == nil {
			err = socket.Check(r, socket.Protocol)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		conn, err := socket.Accept(w, r, socket.Protocol)
		if err != nil {
			s.log.Debug("client left before exec began", "error", err)
			return
		}
		defer conn.End(0)
		ctx, cancel := s.context(r, ofStream)
		defer cancel()
		var spec Spec
		text, err := conn.First(ctx, MaxBody, s.bodyTimeout)
		if err == nil {
			err = decodeStrict(text, &spec)
		}
		if err == nil {
			err = check(p, spec)
		}
		if err != nil {
			s.note(r, err)
			conn.Refuse(endOf(ctx, -1, err), s.writeTimeout)
			return
		}
		conn.Serve(ctx, socket.Command{Timeout: s.writeTimeout, End: endOf,
			Run: func(ctx context.Context, io mvm.ExecIO) (int, error) { return run(ctx, p.addr, spec, io) }})
	}}
}

// endOf is the last message of a command.
func endOf(ctx context.Context, code int, err error) []byte {
	end := execEnd{Code: code}
	if err = because(ctx, err); err != nil {
		failed(ctx, err)
		end = execEnd{Code: -1, Error: bodyOf(ctx, err)}
	}
	b, _ := json.Marshal(end) // of numbers and text
	return b
}

// execEndpoint runs a command.
func (s *Server) execEndpoint() endpoint {
	return session(s, func(p params, spec wire.ExecSpec) error {
		if len(spec.Argv) == 0 || spec.Argv[0] == "" {
			return mvm.Errorf(mvm.KindInvalid, "exec on %s: no command given", p.addr)
		}
		return nil
	}, func(ctx context.Context, addr mvm.Address, spec wire.ExecSpec, io mvm.ExecIO) (int, error) {
		return s.svc(ctx).Exec(ctx, addr, spec.Noun(), io)
	})
}

// copyEndpoint copies files.
func (s *Server) copyEndpoint() endpoint {
	return session(s, func(p params, spec wire.CopySpec) error {
		if err := spec.Noun().Validate(); err != nil {
			return mvm.Errorf(mvm.KindInvalid, "copy with %s: %w", p.addr, err)
		}
		return nil
	}, func(ctx context.Context, addr mvm.Address, spec wire.CopySpec, io mvm.ExecIO) (int, error) {
		return s.svc(ctx).Copy(ctx, addr, spec.Noun(), io)
	})
}
