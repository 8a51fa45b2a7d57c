package api

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"mvm/internal/api/socket"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"mvm"
)

// lifetime says whose context a handler's work gets.
type lifetime int

const (
	// ofClient: the work ends when the client hangs up or the server begins to close.
	ofClient lifetime = iota
	// ofAgent: the work goes on when the client hangs up.
	ofAgent
	// ofStream: as ofClient, but the handler itself watches the connection, which it
	// has taken over.
	ofStream
)

// context derives the context of a request's work.
func (s *Server) context(r *http.Request, of lifetime) (context.Context, context.CancelFunc) {
	if of == ofAgent {
		ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
		stop := context.AfterFunc(s.base, func() { cancel(context.Cause(s.base)) })
		return ctx, func() { stop(); cancel(nil) }
	}
	parent := r.Context()
	if of == ofStream {
		parent = context.WithoutCancel(parent)
	}
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(s.watch, func() { cancel(context.Cause(s.watch)) })
	return ctx, func() { stop(); cancel(nil) }
}

// because gives what ended with its context the reason of that where it is the server's
// end: the client did not cancel it.
func because(ctx context.Context, err error) error {
	why := context.Cause(ctx)
	if err == nil || !errors.Is(why, mvm.ErrAway) || errors.Is(err, mvm.ErrAway) || toBody(err).Kind != mvm.KindCanceled {
		return err
	}
	return mvm.Away("%w: %w", why, err)
}

// unary makes a handler that answers with one JSON value.
func unary[In, Out any](s *Server, of lifetime, f func(ctx context.Context, p params, in In) (Out, error)) endpoint {
	return endpoint{shape: asValue, in: reflect.TypeFor[In](), out: reflect.TypeFor[Out](), serve: func(w http.ResponseWriter, r *http.Request) {
		in, p, err := accept[In](s, w, r, MaxBody)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		ctx, cancel := s.context(r, of)
		defer cancel()
		out, err := f(ctx, p, in)
		if err = because(ctx, err); err != nil {
			s.fail(w, r, err)
			return
		}
		s.answer(w, r, http.StatusOK, out)
	}}
}

// stream makes a handler that answers with lines of progress and then a result. Bad
// requests are refused with a status before the stream begins.
func stream[In, Out any](s *Server, of lifetime, limit int64, f func(ctx context.Context, p params, in In, progress func(mvm.Progress)) (Out, error)) endpoint {
	return endpoint{shape: asResult, in: reflect.TypeFor[In](), out: reflect.TypeFor[Out](), serve: func(w http.ResponseWriter, r *http.Request) {
		in, p, err := accept[In](s, w, r, limit)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		ctx, cancel := s.context(r, of)
		defer cancel()
		out := newLines(w, s.writeTimeout)
		res, err := f(ctx, p, in, out.progress)
		if err = because(ctx, err); err != nil {
			s.note(r, err)
			out.end(line[Out]{Error: bodyOf(r.Context(), err)})
			return
		}
		out.end(line[Out]{Result: &res})
	}}
}

// follow makes a handler that sends items until they end or the client leaves.
func follow[Item any](s *Server, f func(ctx context.Context, p params, each func(Item) error) error) endpoint {
	return endpoint{shape: asItems, in: reflect.TypeFor[none](), out: reflect.TypeFor[Item](), serve: func(w http.ResponseWriter, r *http.Request) {
		_, p, err := accept[none](s, w, r, 0)
		if err == nil && socket.Wanted(r) {
			err = socket.Check(r, socket.Lines)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		ctx, out, cancel := s.itemsTo(w, r)
		if out == nil {
			return
		}
		defer cancel()
		err = because(ctx, f(ctx, p, func(item Item) error { return out.write(line[Item]{Item: &item}) }))
		if err != nil && ctx.Err() == nil {
			s.note(r, err)
		}
		if err != nil {
			failed(r.Context(), err)
			out.end(line[Item]{Error: bodyOf(r.Context(), err)})
			return
		}
		out.end(line[Item]{Result: new(Item)})
	}}
}

// itemsTo returns where items go, and the context of the work for it: lines of the answer, or
// messages of a WebSocket where the client asks for that. It is nil where the client is gone.
func (s *Server) itemsTo(w http.ResponseWriter, r *http.Request) (context.Context, sink, context.CancelFunc) {
	if !socket.Wanted(r) {
		ctx, cancel := s.context(r, ofClient)
		return ctx, newLines(w, s.writeTimeout), cancel
	}
	conn, err := socket.Accept(w, r, socket.Lines)
	if err != nil {
		s.log.Debug("client left before its WebSocket was made", "error", err)
		return nil, nil, nil
	}
	ctx, cancel := s.context(r, ofStream)
	ctx, out := socket.NewTexts(ctx, conn, s.writeTimeout)
	return ctx, messages{out}, cancel
}

// accept reads and checks all of a request but what the handler takes from p.
func accept[In any](s *Server, w http.ResponseWriter, r *http.Request, limit int64) (in In, p params, err error) {
	body, err := readBody(w, r, limit, s.bodyTimeout)
	if err == nil {
		err = decodeStrict(body, &in)
	}
	if err == nil {
		p, err = newParams(r)
	}
	return in, p, err
}

// fail answers with the error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.note(r, err)
	body := bodyOf(r.Context(), err)
	status := statusOf(body.Kind)
	var many *tooMany
	if errors.As(err, &many) {
		status = http.StatusTooManyRequests
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(max(many.after.Seconds(), 1)))))
	}
	s.answer(w, r, status, body)
}

// note logs what a person who runs the agent must see: faults of the agent itself.
func (s *Server) note(r *http.Request, err error) {
	failed(r.Context(), err)
	level := s.log.Debug
	if mvm.KindOf(err) == mvm.KindInternal {
		level = s.log.Error
	}
	level("request failed", "method", r.Method, "path", r.URL.Path, "by", mvm.AskerFrom(r.Context()), "request", mvm.RequestFrom(r.Context()), "error", err)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.log.Error("encode answer", "path", r.URL.Path, "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"kind":"internal","message":"answer can't be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.writeTimeout))
	w.WriteHeader(status)
	if _, err := w.Write(append(b, '\n')); err != nil {
		s.log.Debug("client left before its answer", "path", r.URL.Path, "error", err)
	}
}
