// Package inject has a process make system calls that it was not written to make: what
// a VMM that was taken over does. The calls are the process's own in every respect, with
// its user, its files and its seccomp filter. Only tests import it, and it works on amd64.
package inject
