package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
)

// notExecuted is the exit code of a command that the guest could not start, as
// shells have it.
const notExecuted = 127

// Exec runs a command in a running instance, and returns its exit code.
func (s *Sessions) Exec(ctx context.Context, addr mvm.Address, spec mvm.ExecSpec, io mvm.ExecIO) (int, error) {
	if len(spec.Argv) == 0 {
		return 0, mvm.Errorf(mvm.KindInvalid, "exec in %s: no command", addr)
	}
	i, err := s.runningInstance(ctx, addr)
	if err != nil {
		return 0, orWake(err, i)
	}
	defer s.opt.Guests.Use(i.ID)()
	s.RecordUse(ctx, mvm.ExecStarted, i, argvDetail(spec.Argv))
	req := guestproto.Request{Exec: &guestproto.Exec{Argv: spec.Argv, Env: spec.Env, Dir: spec.Dir, User: spec.User,
		TTY: spec.TTY, Rows: spec.Rows, Cols: spec.Cols}}
	code, err := s.stream(ctx, i.ID, req, io)
	var refused *guestproto.RemoteError
	switch {
	case errors.As(err, &refused) && io.Stderr != nil:
		_, err := fmt.Fprintf(io.Stderr, "mvm: %s\n", display.Clip(refused.Message))
		return notExecuted, err
	case err != nil && mvm.KindOf(err) == mvm.KindUnavailable:
		return 0, mvm.Errorf(mvm.KindUnavailable, "exec in %s: %w", i.ID, err)
	}
	return code, err
}

// Copy carries files into or out of a running instance, and returns an exit code.
func (s *Sessions) Copy(ctx context.Context, addr mvm.Address, spec mvm.CopySpec, io mvm.ExecIO) (int, error) {
	if err := spec.Validate(); err != nil {
		return 0, err
	}
	i, err := s.runningInstance(ctx, addr)
	if err != nil {
		return 0, orWake(err, i)
	}
	defer s.opt.Guests.Use(i.ID)()
	detail := fmt.Sprintf("out of %q", spec.Path)
	switch {
	case spec.In && spec.Name != "":
		detail = fmt.Sprintf("%q into %q", spec.Name, spec.Path)
	case spec.In:
		detail = fmt.Sprintf("into %q", spec.Path)
	}
	s.RecordUse(ctx, mvm.FilesCopied, i, whole(detail))
	req := guestproto.Request{Copy: &guestproto.Copy{Path: spec.Path, In: spec.In, Name: spec.Name, Follow: spec.Follow,
		Owners: spec.Owners, User: spec.User, RequestID: mvm.RequestFrom(ctx)}}
	code, err := s.stream(ctx, i.ID, req, io)
	var refused *guestproto.RemoteError
	switch {
	case errors.As(err, &refused) && strings.Contains(refused.Message, "no such variant"):
		return 0, mvm.Errorf(mvm.KindState, "copy with %s: the guest agent is from an older mvm version, which can't copy", i.ID).
			WithFix("run `mvm pool build %s/%s` and `mvm instance restart %s`, or use tar with `mvm exec`", i.Tenant, i.Pool, i.ID)
	case errors.As(err, &refused):
		return 0, mvm.Errorf(mvm.KindInvalid, "copy with %s: %s", i.ID, display.Clip(refused.Message))
	case err != nil && mvm.KindOf(err) == mvm.KindUnavailable:
		return 0, mvm.Errorf(mvm.KindUnavailable, "copy with %s: %w", i.ID, err)
	}
	return code, err
}

// stream asks the guest for what takes streams, and carries them.
func (s *Sessions) stream(ctx context.Context, id string, req guestproto.Request, io mvm.ExecIO) (int, error) {
	c, err := s.opt.Guests.Dial(ctx, id)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	callCtx, cancel := context.WithTimeout(ctx, s.opt.Call)
	defer cancel()
	resp, err := guestproto.Call(callCtx, c, req)
	if why := s.opt.Guests.Stalled(id); err != nil && why != "" {
		return 0, mvm.Errorf(mvm.KindUnavailable, "%s", why)
	}
	if err != nil {
		return 0, mvm.Errorf(mvm.KindUnavailable, "%w", err)
	}
	if resp.ExecStarted == nil {
		return 0, mvm.Errorf(mvm.KindUnavailable, "unexpected answer from the guest")
	}
	io, end := s.tellStalls(ctx, id, io)
	defer end()
	return pumpExec(ctx, c, io)
}

// maxArgvDetail bounds what is recorded of a command, in bytes.
const maxArgvDetail = 1000

// argvDetail is what is recorded of a command: of a long one its beginning, its end and
// its digest, so that nothing hides behind padding.
func argvDetail(argv []string) string { return whole(fmt.Sprintf("%q", argv)) }

func whole(s string) string {
	if len(s) <= maxArgvDetail {
		return s
	}
	end := strings.ToValidUTF8(s[len(s)-maxArgvDetail/4:], "")
	return fmt.Sprintf("%s%s (%d bytes, sha256:%x)", display.ClipTo(maxArgvDetail/2, s), end, len(s), sha256.Sum256([]byte(s)))
}

// RecordUse records that somebody looks into an instance, before they do. On a full disk
// that is only logged: they may be there to mend it.
func (s *Sessions) RecordUse(ctx context.Context, act mvm.Action, i mvm.Instance, detail string) {
	s.opt.Journal.Record(mvm.Event{Action: act, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID, By: mvm.AskerFrom(ctx), Request: mvm.RequestFrom(ctx), Detail: detail})
}

// runningInstance finds an instance that can be talked to.
func (s *Sessions) runningInstance(ctx context.Context, addr mvm.Address) (mvm.Instance, error) {
	i, err := s.opt.Guests.Instance(ctx, addr)
	if err == nil && i.State != mvm.StateRunning {
		err = mvm.Errorf(mvm.KindState, "instance %s is %s, not running", i.Address(), i.State).
			WithFix("run `mvm %s %s` first", startVerb(i.State), i.ID)
	}
	return i, err
}

// orWake adds to the error that the command can wake the instance itself.
func orWake(err error, i mvm.Instance) error {
	var e *mvm.Error
	if errors.As(err, &e) && (i.State == mvm.StateSleeping || i.State == mvm.StateWarm) {
		e.Fix += ", or use --wake"
	}
	return err
}

// startVerb is the command that has an instance of the state run.
func startVerb(s mvm.State) string {
	switch s {
	case mvm.StateWarm:
		return "instance resume"
	case mvm.StateSleeping:
		return "instance wake"
	}
	return "instance start"
}

// pumpExec carries an exec stream until the guest sends the exit or the stream
// ends. Its goroutines are gone when it returns, except that a read of io.Stdin
// that is under way can't be interrupted: the caller ends it by closing its side.
func pumpExec(ctx context.Context, c net.Conn, cio mvm.ExecIO) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release := guestproto.Bind(ctx, c)
	defer release()
	send := &frameSender{c: c}
	if cio.Stdin != nil {
		go send.stdin(cio.Stdin, cancel)
	} else {
		send.send(guestproto.ExecFrame{CloseStdin: true})
	}
	if cio.Resize != nil {
		go send.resizes(ctx, cio.Resize)
	}
	for {
		var f guestproto.ExecFrame
		if err := guestproto.Receive(c, &f); err != nil {
			if ctx.Err() != nil {
				return 0, mvm.Errorf(mvm.KindCanceled, "exec: %w", context.Cause(ctx))
			}
			return 0, mvm.Errorf(mvm.KindUnavailable, "exec: stream from the guest ended: %w", err)
		}
		switch {
		case f.Exit != nil:
			return f.Exit.Code & 0xff, nil
		case f.Stdout != nil:
			if _, err := cio.Stdout.Write(f.Stdout); err != nil {
				return 0, mvm.Errorf(mvm.KindCanceled, "exec: write output: %w", err)
			}
		case f.Stderr != nil:
			if _, err := cio.Stderr.Write(f.Stderr); err != nil {
				return 0, mvm.Errorf(mvm.KindCanceled, "exec: write output: %w", err)
			}
		}
	}
}

// frameSender writes frames of several goroutines to one stream.
type frameSender struct {
	mu sync.Mutex
	c  net.Conn
}

func (s *frameSender) send(f guestproto.ExecFrame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return guestproto.Send(s.c, f) == nil
}

// stdin sends the command's input. Where it ends early the command is killed: to it that
// must not look like the end of its input.
func (s *frameSender) stdin(r io.Reader, kill context.CancelCauseFunc) {
	buf := make([]byte, guestproto.MaxExecData)
	for {
		n, err := r.Read(buf)
		if n > 0 && !s.send(guestproto.ExecFrame{Stdin: buf[:n]}) {
			return
		}
		if errors.Is(err, io.EOF) {
			s.send(guestproto.ExecFrame{CloseStdin: true})
			return
		}
		if err != nil {
			kill(fmt.Errorf("read stdin: %w", err))
			return
		}
	}
}

func (s *frameSender) resizes(ctx context.Context, ch <-chan [2]uint16) {
	for {
		select {
		case <-ctx.Done():
			return
		case v, ok := <-ch:
			if !ok || !s.send(guestproto.ExecFrame{Resize: &guestproto.Resize{Rows: v[0], Cols: v[1]}}) {
				return
			}
		}
	}
}
