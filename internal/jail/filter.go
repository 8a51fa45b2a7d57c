package jail

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Calls are the system calls of a program.
type Calls struct {
	// Names are allowed whatever their arguments.
	Names []string
	// If are allowed with some arguments only. Those that are made most come first.
	If []Condition
}

// Condition is a call that is allowed where one of its arguments, of which the lower 32 bits
// count, is one of the values.
type Condition struct {
	Call   string
	Arg    int
	Values []Value
	// Else is the error otherwise; 0: the program is ended.
	Else syscall.Errno
}

// Value is met by what has its bits under its mask.
type Value struct{ Mask, Bits uint32 }

// Exactly are values that have to be met in all bits.
func Exactly(all ...uint32) []Value {
	var out []Value
	for _, v := range all {
		out = append(out, Value{^uint32(0), v})
	}
	return out
}

// helperCalls are made by the helper between the filter and the program.
// A signal may come meanwhile.
const helperCalls = "sendmsg close write execve exit_group rt_sigreturn"

//go:embed calls.txt
var callTable string

// callNames are the names of the system calls of x86-64 by their number.
func callNames() []string {
	names := strings.Split(strings.TrimSuffix(callTable, "\n"), "\n")
	for i, n := range names {
		if n == "-" {
			names[i] = ""
		}
	}
	return names
}

// callName says which call it is.
func callName(nr int) string {
	if names := callNames(); nr >= 0 && nr < len(names) && names[nr] != "" {
		return names[nr]
	}
	return fmt.Sprintf("number %d", nr)
}

// Names of the kernel's data on a call, as a filter sees them.
const (
	offNR    = 0
	offArch  = 4
	offArgs  = 16
	x32Bit   = 0x40000000
	retErrno = unix.SECCOMP_RET_ERRNO
)

func load(off uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

// jump goes yes or no instructions on.
func jump(op uint16, k uint32, yes, no int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: uint8(yes), Jf: uint8(no), K: k}
}

// program is the filter. What is neither allowed nor answered with an error has the kernel
// ask whoever has the filter's file.
func (c Calls) program() ([]unix.SockFilter, error) {
	if auditArch == 0 {
		return nil, fmt.Errorf("filter system calls: there is no list for this machine's architecture")
	}
	names := callNames()
	number := func(name string) (uint32, error) {
		i := slices.Index(names, name)
		if i < 0 || name == "" {
			return 0, fmt.Errorf("filter system calls: there is no call %q", name)
		}
		return uint32(i), nil
	}
	prog := []unix.SockFilter{
		load(offArch), jump(unix.BPF_JEQ, auditArch, 1, 0), ret(unix.SECCOMP_RET_KILL_PROCESS),
		load(offNR), jump(unix.BPF_JGE, x32Bit, 0, 1), ret(unix.SECCOMP_RET_KILL_PROCESS),
	}
	for _, cond := range c.If {
		nr, err := number(cond.Call)
		if err != nil {
			return nil, err
		}
		prog = append(prog, cond.block(nr)...)
	}
	for _, name := range c.plain() {
		nr, err := number(name)
		if err != nil {
			return nil, err
		}
		prog = append(prog, jump(unix.BPF_JEQ, nr, 0, 1), ret(unix.SECCOMP_RET_ALLOW))
	}
	return append(prog, jump(unix.BPF_JGE, uint32(len(names)), 0, 1), ret(retErrno|uint32(unix.ENOSYS)), ret(unix.SECCOMP_RET_USER_NOTIF)), nil
}

// plain are the names of calls that are allowed whatever their arguments.
func (c Calls) plain() []string {
	all := append(slices.Clone(c.Names), strings.Fields(helperCalls)...)
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(n string) bool {
		return slices.ContainsFunc(c.If, func(i Condition) bool { return i.Call == n })
	})
}

// block decides on the call, and goes on behind itself with the number loaded for any other.
func (cond Condition) block(nr uint32) []unix.SockFilter {
	otherwise := uint32(unix.SECCOMP_RET_USER_NOTIF)
	if cond.Else != 0 {
		otherwise = retErrno | uint32(cond.Else)
	}
	var body []unix.SockFilter
	for _, v := range cond.Values {
		body = append(body, load(offArgs+8*uint32(cond.Arg)), unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: v.Mask},
			jump(unix.BPF_JEQ, v.Bits, 0, 1), ret(unix.SECCOMP_RET_ALLOW))
	}
	body = append(body, ret(otherwise))
	return append([]unix.SockFilter{jump(unix.BPF_JEQ, nr, 0, len(body))}, body...)
}
