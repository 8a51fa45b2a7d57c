package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// runner plants bugs and runs tests on them.
type runner struct {
	log       io.Writer
	root, tmp string
	jobs      int           // bugs at a time
	slack     time.Duration // that tests may take beside five times what they take without a bug
}

// slow is how long a test takes that is run after the others: most bugs are noticed
// by a quick one.
const slow = time.Second

// target plants n bugs in one package, in the order given.
func (r *runner) target(ctx context.Context, t *table, g target, sites []site, n int, same map[string]string) error {
	runs, err := r.baseline(ctx, g)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var mu sync.Mutex
	var workers sync.WaitGroup
	next := func() (site, bool) {
		mu.Lock()
		defer mu.Unlock()
		for len(sites) > 0 && n > 0 && ctx.Err() == nil {
			s := sites[0]
			sites = sites[1:]
			if why := same[s.name()]; why != "" {
				t.rows = append(t.rows, row{site: s, verdict: equivalent, by: why})
				continue
			}
			n--
			return s, true
		}
		return site{}, false
	}
	done := func(v row) {
		mu.Lock()
		defer mu.Unlock()
		t.rows = append(t.rows, v)
		fmt.Fprintf(r.log, "%s\n", v)
		if v.verdict == unbuildable {
			n++
		}
	}
	for i := range r.jobs {
		workers.Go(func() {
			for s, ok := next(); ok; s, ok = next() {
				began := time.Now()
				v, err := r.plant(ctx, filepath.Join(r.tmp, strconv.Itoa(i)), s, runs)
				if err != nil {
					stop(err)
					return
				}
				v.took = time.Since(began)
				done(v)
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// run is one run of tests on a bug.
type run struct {
	tests
	limit time.Duration
}

// baseline runs the tests without a bug, and says how to run them with one.
func (r *runner) baseline(ctx context.Context, g target) ([]run, error) {
	var runs []run
	for _, s := range g.tests {
		bin, err := r.compile(ctx, r.tmp, s, nil)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		v, out := r.test(ctx, r.tmp, bin, run{tests{s.pkg, append([]string{"-test.v"}, s.args...)}, 20 * time.Minute})
		if v != survived {
			return nil, fmt.Errorf("the tests of %s fail without a bug: %s\n%s", s.pkg, firstFailure(out, s.pkg), out)
		}
		took := time.Since(began)
		fmt.Fprintf(r.log, "%s: tests of %s take %.0f s\n", g.pkg, s.pkg, took.Seconds())
		late, limit := slowTests(out), 5*took+r.slack
		if late == "" || len(s.args) > 0 {
			runs = append(runs, run{s, limit})
			continue
		}
		runs = append(runs, run{tests{s.pkg, []string{"-test.skip=" + late}}, limit}, run{tests{s.pkg, []string{"-test.run=" + late}}, limit})
	}
	return runs, nil
}

var passed = regexp.MustCompile(`(?m)^--- PASS: (\S+) \(([0-9.]+)s\)`)

// slowTests is a pattern of the tests that are slow.
func slowTests(out string) string {
	var names []string
	for _, m := range passed.FindAllStringSubmatch(out, -1) {
		if took, err := time.ParseDuration(m[2] + "s"); err == nil && took >= slow {
			names = append(names, m[1])
		}
	}
	if names == nil {
		return ""
	}
	return "^(" + strings.Join(names, "|") + ")$"
}

// plant says what becomes of one bug. The folder is this worker's.
func (r *runner) plant(ctx context.Context, dir string, s site, runs []run) (row, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return row{}, err
	}
	overlay, err := r.overlay(dir, s)
	if err != nil {
		return row{}, err
	}
	bin, of := "", ""
	for _, u := range runs {
		if of != u.pkg {
			bin, err = r.compile(ctx, dir, u.tests, overlay)
			of = u.pkg
		}
		if ctx.Err() != nil {
			return row{}, ctx.Err()
		}
		if err != nil {
			return row{site: s, verdict: unbuildable}, nil
		}
		v, out := r.test(ctx, dir, bin, u)
		switch {
		case ctx.Err() != nil:
			return row{}, ctx.Err()
		case v == hung:
			return row{site: s, verdict: hung, by: u.pkg}, nil
		case v == caught:
			return row{site: s, verdict: caught, by: firstFailure(out, u.pkg)}, nil
		}
	}
	return row{site: s, verdict: survived}, nil
}

// overlay has the compiler see the file with the bug.
func (r *runner) overlay(dir string, s site) ([]string, error) {
	path := filepath.Join(r.root, s.file)
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	with := filepath.Join(dir, "mutant.go")
	text := string(src[:s.from]) + s.with + string(src[s.to:])
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: with}})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "overlay.json")
	return []string{"-overlay", file}, errors.Join(os.WriteFile(with, []byte(text), 0o600), os.WriteFile(file, list, 0o600))
}

// compile makes the program of the package's tests.
func (r *runner) compile(ctx context.Context, dir string, s tests, overlay []string) (string, error) {
	bin := filepath.Join(dir, "test.bin")
	args := append([]string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", bin}, overlay...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+s.pkg)...)
	cmd.Dir = r.root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("compile the tests of %s: %w\n%s", s.pkg, err, out)
	}
	return bin, nil
}

// test runs the program of the tests, and returns what it printed last.
func (r *runner) test(ctx context.Context, dir, bin string, u run) (verdict, string) {
	tmp, err := os.MkdirTemp(dir, "run")
	if err != nil {
		return survived, err.Error()
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	ctx, cancel := context.WithTimeout(ctx, u.limit)
	defer cancel()
	args := append([]string{bin, "-test.short", "-test.failfast", "-test.timeout=" + u.limit.String()}, u.args...)
	cmd := confine(ctx, tmp, args)
	cmd.Dir = filepath.Join(r.root, u.pkg)
	cmd.WaitDelay = 10 * time.Second
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	switch {
	case err == nil:
		return survived, ""
	case ctx.Err() != nil || bytes.Contains(out.b, []byte("panic: test timed out")):
		return hung, out.String()
	}
	return caught, out.String()
}

var failure = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// firstFailure is the test that noticed.
func firstFailure(out, pkg string) string {
	if m := failure.FindStringSubmatch(out); m != nil {
		return m[1]
	}
	return "a crash of " + pkg
}

// tail keeps the last part of what is written.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b); n > 1<<20 {
		t.b = append([]byte(nil), t.b[n-1<<19:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }

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
