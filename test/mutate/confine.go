package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// The words by which this program, started again, confines what it runs, and its exit
// code where it can't.
const (
	confineArg    = "confined"
	confineFailed = 97
)

// confine runs the program in namespaces of its own, and with it end all that it started.
// Without root it runs as it is: then it has no rights to do harm with.
func confine(ctx context.Context, dir string, args []string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil || os.Geteuid() != 0 {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	cmd := exec.CommandContext(ctx, self, append([]string{confineArg, dir}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// confined is the first process of the namespaces. The folder becomes /tmp, and nothing can
// be written to beside it and the caches. It runs the program, waits for all that nobody
// else waits for, and returns the program's exit code.
func confined(args []string) (code int, err error) {
	dir, program := args[0], args[1:]
	if err := isolate(dir); err != nil {
		return 0, err
	}
	p, err := os.StartProcess(program[0], program, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 0, err
	}
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the tests: %w", err)
		case pid == p.Pid && st.Signaled():
			return 128 + int(st.Signal()), nil
		case pid == p.Pid:
			return st.ExitStatus(), nil
		}
	}
}

// isolate gives this process mounts of its own.
func isolate(dir string) error {
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		return err
	}
	mount := func(what, from, at, kind string, flags uintptr) error {
		if err := syscall.Mount(from, at, kind, flags, ""); err != nil {
			return fmt.Errorf("%s %s: %w", what, at, err)
		}
		return nil
	}
	if err := mount("keep mounts to this process below", "", "/", "", syscall.MS_REC|syscall.MS_PRIVATE); err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	err = errors.Join(mount("keep", cache, cache, "", syscall.MS_BIND), mount("put a folder at", dir, "/tmp", "", syscall.MS_BIND))
	if err != nil {
		return err
	}
	err = mount("protect", "", "/", "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY)
	if err == nil {
		err = mount("show the processes of this namespace at", "proc", "/proc", "proc", 0)
	}
	return err
}
