package sys

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// faults are the errors by which a host says that it lacks something or is broken
// itself, with what to do about each. None of them says anything about the file or
// process that somebody wanted to work with.
var faults = []struct {
	errno syscall.Errno
	fix   string
}{
	{syscall.ENOSPC, "free space on the host's disk; see `mvm node disk`"},
	{syscall.EDQUOT, "free space, or raise the disk quota of mvm's user"},
	{syscall.EMFILE, "raise LimitNOFILE of mvm; see `mvm node stats`"},
	{syscall.ENFILE, "raise the sysctl fs.file-max"},
	{syscall.ENOMEM, "free memory on the host; see `mvm node stats`"},
	{syscall.EAGAIN, "raise the limits of processes: TasksMax of mvm, and the sysctls kernel.threads-max and kernel.pid_max"},
	{syscall.EROFS, "mount the data dir for writing; see `dmesg`"},
	{syscall.EIO, "check the host's disk; see `dmesg`"},
}

// ErrAway is in the chain of errors that say that another part of mvm on this host does
// not answer.
var ErrAway = errors.New("a part of mvm on this host does not answer")

// Fault returns the errno in err's chain by which the host says that it lacks
// something (space, files, memory, processes) or is broken itself. EIO of a file is
// one: it is the disk's. A part of mvm that does not answer is a fault without an errno.
func Fault(err error) (errno syscall.Errno, ok bool) {
	if errors.Is(err, ErrAway) {
		return 0, true
	}
	for _, f := range faults {
		if errors.Is(err, f.errno) {
			return f.errno, true
		}
	}
	return 0, false
}

// FaultFix says what to do about a fault of the host, "" for what is none.
func FaultFix(err error) string {
	for _, f := range faults {
		if errors.Is(err, f.errno) {
			return f.fix
		}
	}
	return ""
}

// FaultIn finds in the words of a program, such as its last ones, the errno by which a
// host says that it lacks something. EIO is not looked for: a program may mean its own
// input.
func FaultIn(words string) (errno syscall.Errno, ok bool) {
	words = strings.ToLower(words)
	for _, f := range faults {
		if f.errno != syscall.EIO && strings.Contains(words, f.errno.Error()) {
			return f.errno, true
		}
	}
	if strings.Contains(words, "failed to allocate") || strings.Contains(words, "out of memory") {
		return syscall.ENOMEM, true
	}
	return 0, false
}

// NoProgram reports that a program could not be started because it is not there, or
// may not be executed.
func NoProgram(err error) bool {
	var path *fs.PathError
	if errors.Is(err, exec.ErrNotFound) {
		return true
	}
	return errors.As(err, &path) && path.Op == "fork/exec" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission))
}

// SpareFiles returns an error where this process can't open so many files more. Who has
// found nothing in /proc knows by it whether it could look.
func SpareFiles(n int) error {
	for range n {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		defer f.Close()
	}
	return nil
}
