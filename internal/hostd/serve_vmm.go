package hostd

import (
	"context"
	"os"
	"time"

	"mvm"
	"mvm/internal/driver/vmproc"
)

// undoTimeout bounds the end of a VMM whose caller has gone.
const undoTimeout = 10 * time.Second

// firstKind is the kind of VMM that a request is for which names none.
const firstKind = "qemu"

// vmms is the launcher that a request is for.
func (s *Server) vmms(k vmmKind) (vmproc.Launcher, error) {
	kind := k.VMM
	if kind == "" {
		kind = firstKind
	}
	if l := s.opt.VMMs[kind]; l != nil {
		return l, nil
	}
	return nil, mvm.Errorf(mvm.KindInvalid, "read request: this host starts no VMMs of kind %.40q", kind)
}

// launch starts a VMM with the files that came.
func (s *Server) launch(ctx context.Context, l launchRequest, r request) (reply, error) {
	vmms, err := s.vmms(l.vmmKind)
	if err != nil {
		return reply{}, err
	}
	l.Owner, l.Files = r.from, r.files
	p, cgroups, err := vmms.Launch(ctx, l.Launch)
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
		if err := vmms.Leave(ctx, l.Name, l.Cgroup, cgroups); err != nil {
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

// answerProcess hands on a hold on the process.
func answerProcess(p vmproc.Process, cgroups []string) (reply, error) {
	f, err := p.File()
	if err != nil {
		return reply{}, err
	}
	pid, start := p.ID()
	return reply{body: processAnswer{PID: pid, Start: start, Cgroups: cgroups}, files: []*os.File{f}}, nil
}

func (s *Server) findVMM(ctx context.Context, v vmmRequest) (vmproc.Process, error) {
	vmms, err := s.vmms(v.vmmKind)
	if err != nil {
		return nil, err
	}
	return vmms.Find(ctx, v.Name, v.Hint)
}

func (s *Server) find(ctx context.Context, v vmmRequest) (reply, error) {
	p, err := s.findVMM(ctx, v)
	if err != nil {
		return reply{}, err
	}
	defer p.Close()
	return answerProcess(p, nil)
}

// held calls fn with the very process of the request.
func (s *Server) held(ctx context.Context, v vmmRequest, fn func(vmproc.Process) (reply, error)) (reply, error) {
	p, err := s.findVMM(ctx, v)
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
		return reply{body: statsAnswer{CPU: st.CPU, RSS: st.RSS, Throttled: st.Throttled}}, err
	})
}

func (s *Server) limitCPU(ctx context.Context, c cpuRequest) (reply, error) {
	return s.held(ctx, c.vmmRequest, func(p vmproc.Process) (reply, error) { return reply{body: none{}}, p.LimitCPU(ctx, c.CPU) })
}

// exit says how a VMM ended that this process has started.
func (s *Server) exit(ctx context.Context, v vmmRequest) (reply, error) {
	return reply{body: s.exits.wait(ctx, vmproc.Hint{PID: v.Hint.PID, Start: v.Hint.Start})}, nil
}

func (s *Server) list(ctx context.Context, l listRequest) (reply, error) {
	vmms, err := s.vmms(l.vmmKind)
	if err != nil {
		return reply{}, err
	}
	names, err := vmms.List(ctx, l.Root)
	return reply{body: listAnswer{names}}, err
}

func (s *Server) survey(ctx context.Context, r surveyRequest) (reply, error) {
	vmms, err := s.vmms(r.vmmKind)
	if err != nil {
		return reply{}, err
	}
	found, err := vmms.Survey(ctx)
	return reply{body: found}, err
}

func (s *Server) walls(ctx context.Context, r surveyRequest) (reply, error) {
	vmms, err := s.vmms(r.vmmKind)
	if err != nil {
		return reply{}, err
	}
	found, err := vmms.Walls(ctx)
	return reply{body: wallsAnswer{found}}, err
}

// leave removes cgroups by the VMM's name alone: no folder is taken from a caller.
func (s *Server) leave(ctx context.Context, l leaveRequest) (reply, error) {
	vmms, err := s.vmms(l.vmmKind)
	if err != nil {
		return reply{}, err
	}
	return reply{body: none{}}, vmms.Leave(ctx, l.Name, l.Cgroup, nil)
}
