package hostd

import (
	"context"
	"os"
	"time"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
)

// undoTimeout bounds the end of a VMM whose caller has gone.
const undoTimeout = 10 * time.Second

// launch starts a VMM with the files that came.
func (s *Server) launch(ctx context.Context, l launchRequest, r request) (reply, error) {
	if err := l.take(r.files); err != nil {
		return reply{}, err
	}
	l.Owner = r.from
	p, cgroups, err := s.opt.VMMs.Launch(ctx, l.Launch)
	if err != nil {
		return reply{}, err
	}
	hint := s.exits.watch(p)
	out, err := answerProcess(p, cgroups)
	undo := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		_ = p.Kill(ctx)
		s.exits.wait(ctx, hint)
		if err := s.opt.VMMs.Leave(ctx, l.Name, l.Cgroup, cgroups); err != nil {
			s.opt.Log.Warn("clean up after a VMM whose caller has gone", "instance", l.ID, "error", err)
		}
	}
	if err != nil {
		undo()
		return reply{}, err
	}
	s.opt.Log.Debug("VMM started", "instance", l.ID, "pid", hint.PID, "uid", l.UID)
	out.undo = undo
	return out, nil
}

// take puts the files in their places, in the order in which put sends them.
func (l *launchRequest) take(files []*os.File) error {
	f := &l.Files
	places := []**os.File{&f.Lock, &f.Log, &f.Memory, &f.QMP, &f.Console, &f.Channel}
	if l.Kernel {
		places = append(places, &f.Kernel)
	}
	if l.Initrd {
		places = append(places, &f.Initrd)
	}
	if l.TAP {
		places = append(places, &f.TAP)
	}
	if len(l.Disks) > spawn.MaxDisks || len(files) != len(places)+len(l.Disks) {
		return mvm.Errorf(mvm.KindInvalid, "read request: %d files came with the VMM, not %d", len(files), len(places)+len(l.Disks))
	}
	for i, p := range places {
		*p = files[i]
	}
	f.Disks = files[len(places):]
	return nil
}

// put lists the files in the order in which take expects them.
func put(l spawn.Launch) (launchRequest, []*os.File) {
	f := l.Files
	files := []*os.File{f.Lock, f.Log, f.Memory, f.QMP, f.Console, f.Channel}
	r := launchRequest{Launch: l, Kernel: f.Kernel != nil, Initrd: f.Initrd != nil, TAP: f.TAP != nil}
	for _, further := range []*os.File{f.Kernel, f.Initrd, f.TAP} {
		if further != nil {
			files = append(files, further)
		}
	}
	return r, append(files, f.Disks...)
}

// answerProcess hands on a hold on the process.
func answerProcess(p vmproc.Process, cgroups []string) (reply, error) {
	f, err := p.File()
	if err != nil {
		return reply{}, err
	}
	pid, start := p.ID()
	return reply{body: processAnswer{PID: pid, Start: start, Cgroups: cgroups}, files: []*os.File{f}}, nil
}

func (s *Server) find(ctx context.Context, v vmmRequest) (reply, error) {
	p, err := s.opt.VMMs.Find(ctx, v.Name, v.Hint)
	if err != nil {
		return reply{}, err
	}
	defer p.Close()
	return answerProcess(p, nil)
}

// held calls fn with the very process of the request.
func (s *Server) held(ctx context.Context, v vmmRequest, fn func(vmproc.Process) (reply, error)) (reply, error) {
	p, err := s.opt.VMMs.Find(ctx, v.Name, v.Hint)
	if err != nil {
		return reply{}, err
	}
	defer p.Close()
	if pid, start := p.ID(); pid != v.Hint.PID || start != v.Hint.Start {
		return reply{}, errOther
	}
	return fn(p)
}

func (s *Server) kill(ctx context.Context, v vmmRequest) (reply, error) {
	return s.held(ctx, v, func(p vmproc.Process) (reply, error) { return reply{body: none{}}, p.Kill(ctx) })
}

func (s *Server) stats(ctx context.Context, v vmmRequest) (reply, error) {
	return s.held(ctx, v, func(p vmproc.Process) (reply, error) {
		st, err := p.Stats()
		return reply{body: statsAnswer{CPU: st.CPU, RSS: st.RSS}}, err
	})
}

// exit says how a VMM ended that this process has started.
func (s *Server) exit(ctx context.Context, v vmmRequest) (reply, error) {
	return reply{body: s.exits.wait(ctx, vmproc.Hint{PID: v.Hint.PID, Start: v.Hint.Start})}, nil
}

func (s *Server) list(ctx context.Context, l listRequest) (reply, error) {
	names, err := s.opt.VMMs.List(ctx, l.Root)
	return reply{body: listAnswer{names}}, err
}

func (s *Server) survey(ctx context.Context, _ none) (reply, error) {
	found, err := s.opt.VMMs.Survey(ctx)
	return reply{body: found}, err
}

// leave removes cgroups by the VMM's name alone: no folder is taken from a caller.
func (s *Server) leave(ctx context.Context, l leaveRequest) (reply, error) {
	return reply{body: none{}}, s.opt.VMMs.Leave(ctx, l.Name, l.Cgroup, nil)
}
