package guest

import (
	"errors"
	"os"
	"strings"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// startExec starts the command with pipes or a terminal.
func (a *Agent) startExec(s *execSession, e guestproto.Exec) (err error) {
	if len(e.Argv) == 0 || len(e.Argv) > maxArgs || len(e.Env) > maxArgs {
		return errors.New("exec: there must be 1 to 4096 arguments, and at most 4096 variables")
	}
	user, err := workload.LookupUser(a.paths.Etc, e.User)
	if err != nil {
		return err
	}
	files, err := s.open(e, user)
	if err != nil {
		return err
	}
	s.proc, err = a.procs.Start(workload.Command{Argv: e.Argv, Env: a.execEnv(user, e), Dir: e.Dir, User: user, Files: files, TTY: e.TTY})
	for i, f := range files {
		if i == 0 || f != files[0] {
			f.Close()
		}
	}
	if err != nil {
		s.closeFiles()
	}
	return err
}

// execEnv is the user's environment, the pool's, then the request's.
func (a *Agent) execEnv(user workload.User, e guestproto.Exec) []string {
	env := workload.UserEnv(user)
	if e.TTY {
		env["TERM"] = defaultTerm
	}
	a.mu.Lock()
	for k, v := range a.env {
		env[k] = v
	}
	a.mu.Unlock()
	for _, kv := range e.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" && !strings.ContainsRune(kv, 0) {
			env[k] = v
		}
	}
	return workload.JoinEnv(env)
}

// open makes the command's files and keeps the other ends.
func (s *execSession) open(e guestproto.Exec, user workload.User) (files [3]*os.File, err error) {
	stdout := func(b []byte) guestproto.ExecFrame { return guestproto.ExecFrame{Stdout: b} }
	stderr := func(b []byte) guestproto.ExecFrame { return guestproto.ExecFrame{Stderr: b} }
	if e.TTY {
		master, slave, err := openTerminal(e.Rows, e.Cols, user)
		if err != nil {
			return files, err
		}
		s.tty, s.stdin = master, master
		s.outputs = []output{{master, stdout}}
		return [3]*os.File{slave, slave, slave}, nil
	}
	var ours [3]*os.File
	for i := range files {
		r, w, err := os.Pipe()
		if err != nil {
			for k := range i {
				files[k].Close()
				ours[k].Close()
			}
			return files, err
		}
		if files[i], ours[i] = w, r; i == 0 {
			files[i], ours[i] = r, w
		}
	}
	s.stdin = ours[0]
	s.outputs = []output{{ours[1], stdout}, {ours[2], stderr}}
	return files, nil
}

func (s *execSession) closeFiles() {
	s.stdin.Close()
	for _, o := range s.outputs {
		o.file.Close()
	}
}
