package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// runner plants bugs and runs tests on them.
type runner struct {
	log       io.Writer
	root, tmp string
	jobs      int           // programs of tests at a time
	slack     time.Duration // that tests may take beside five times what they take without a bug
	longest   time.Duration // a test that takes longer without a bug is left out
}

// program is the compiled tests of a package that has the bugs, or uses it.
type program struct {
	pkg, bin string
	args     []string
	tests    []*test
}

// test is one test, how long it takes without a bug, and the bugs that it comes upon.
type test struct {
	name    string
	took    time.Duration
	reaches map[int]bool
	fails   bool // without a bug, when it runs alone
	late    bool // it fails by taking too long
}

// target plants n bugs in the packages of one target, in the order given.
func (r *runner) target(ctx context.Context, t *table, g target, sources []*source, sites []site, n int, same map[string]string) error {
	planted, err := r.schema(t, g, sources, sites, n, same)
	if err != nil {
		return err
	}
	var programs []*program
	for i, s := range g.tests {
		p, err := r.compile(ctx, g, s, i)
		if err != nil {
			return err
		}
		if err := r.baseline(ctx, p); err != nil {
			return err
		}
		programs = append(programs, p)
	}
	var mu sync.Mutex
	return r.each(ctx, len(planted), func(ctx context.Context, i int) error {
		began := time.Now()
		v, err := r.try(ctx, planted[i], programs)
		if err != nil {
			return err
		}
		v.took = time.Since(began)
		mu.Lock()
		defer mu.Unlock()
		t.rows = append(t.rows, v)
		fmt.Fprintf(r.log, "%s\n", v)
		return nil
	})
}

// each calls do with 0 to n-1, as many at a time as jobs are allowed.
func (r *runner) each(ctx context.Context, n int, do func(context.Context, int) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var workers sync.WaitGroup
	next := make(chan int)
	for range r.jobs {
		workers.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					stop(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

// schema writes the packages with the first n bugs that compile and count, and returns
// these. Some more are tried at once, for those that don't compile.
func (r *runner) schema(t *table, g target, sources []*source, sites []site, n int, same map[string]string) ([]numbered, error) {
	var few []numbered
	for _, s := range sites {
		if why := same[s.name()]; why != "" {
			t.rows = append(t.rows, row{site: s, verdict: equivalent, by: why})
		} else if few = append(few, numbered{s, len(few) + 1}); len(few) == n+n/2+5 {
			break
		}
	}
	broken := map[int]bool{}
	texts := map[string]string{}
	for _, p := range sources {
		var own []numbered
		for _, s := range few {
			if s.pkg == p {
				own = append(own, s)
			}
		}
		with, bad, err := p.schema(own)
		if err != nil {
			return nil, err
		}
		for path, text := range with {
			texts[path] = text
		}
		for _, s := range bad {
			broken[s.n] = true
		}
	}
	var planted []numbered
	for _, s := range few {
		switch {
		case len(planted) == n:
		case broken[s.n]:
			t.rows = append(t.rows, row{site: s.site, verdict: unbuildable})
		default:
			planted = append(planted, s)
		}
	}
	dir := r.dir(g)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return planted, overlay(dir, texts)
}

func (r *runner) dir(g target) string {
	return filepath.Join(r.tmp, strings.ReplaceAll(g.name(), "/", "-"))
}

// compile makes the program of the tests.
func (r *runner) compile(ctx context.Context, g target, s tests, i int) (*program, error) {
	p := &program{pkg: s.pkg, args: s.args, bin: filepath.Join(r.dir(g), fmt.Sprintf("test%d.bin", i))}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-o", p.bin,
		"-overlay", filepath.Join(r.dir(g), overlayName), "./"+s.pkg)
	cmd.Dir = r.root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("compile the tests of %s: %w\n%s", s.pkg, err, out)
	}
	if len(s.args) > 0 {
		p.tests = []*test{{name: s.pkg}}
		return p, nil
	}
	cmd = exec.CommandContext(ctx, p.bin, "-test.list=^(Test|Fuzz|Example)")
	cmd.Dir = filepath.Join(r.root, s.pkg)
	if out, err = cmd.Output(); err != nil {
		return nil, fmt.Errorf("list the tests of %s: %w", s.pkg, err)
	}
	for _, name := range strings.Fields(string(out)) {
		p.tests = append(p.tests, &test{name: name})
	}
	return p, nil
}

// baseline runs each test alone without a bug.
func (r *runner) baseline(ctx context.Context, p *program) error {
	began := time.Now()
	err := r.each(ctx, len(p.tests), func(ctx context.Context, i int) error {
		t := p.tests[i]
		reached, err := os.CreateTemp(r.tmp, "reached")
		if err != nil {
			return err
		}
		defer func() { _ = os.Remove(reached.Name()) }()
		defer reached.Close()
		if err := reached.Chmod(0o666); err != nil {
			return err
		}
		out := ""
		for range 2 { // a test that waits for a busy machine may fail once
			began := time.Now()
			var v verdict
			v, out = r.exec(ctx, p, []*test{t}, r.longest, reachedVar+"="+reached.Name())
			t.took, t.fails = time.Since(began), v != survived
			if t.late = v == hung; v != caught || ctx.Err() != nil {
				break
			}
		}
		if t.late {
			fmt.Fprintf(r.log, "%s of %s takes longer than %v and is left out\n", t.name, p.pkg, r.longest)
		} else if t.fails {
			fmt.Fprintf(r.log, "%s of %s fails without a bug and is left out:\n%s\n", t.name, p.pkg, out)
		}
		text, err := io.ReadAll(reached)
		t.reaches = map[int]bool{}
		for _, line := range strings.Fields(string(text)) {
			n, _ := strconv.Atoi(line)
			t.reaches[n] = true
		}
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(p.tests, func(a, b *test) int { return int(a.took - b.took) })
	fails := 0
	for _, t := range p.tests {
		if t.fails && !t.late {
			fails++
		}
	}
	fmt.Fprintf(r.log, "%d tests of %s take %.0f s\n", len(p.tests), p.pkg, time.Since(began).Seconds())
	if 10*fails > len(p.tests) {
		return fmt.Errorf("%d of %d tests of %s fail without a bug", fails, len(p.tests), p.pkg)
	}
	return nil
}

// batches are the tests that come upon the bug, the quick ones first.
func (p *program) batches(n int) (all [][]*test) {
	var batch []*test
	var sum, most time.Duration = 0, time.Second
	for _, t := range p.tests {
		if t.fails || !t.reaches[n] {
			continue
		}
		if len(batch) > 0 && sum+t.took > most {
			all, batch, sum, most = append(all, batch), nil, 0, 4*most
		}
		batch, sum = append(batch, t), sum+t.took
	}
	if len(batch) > 0 {
		all = append(all, batch)
	}
	return all
}

// try says what becomes of one bug.
func (r *runner) try(ctx context.Context, s numbered, programs []*program) (row, error) {
	bug := chosenVar + "=" + strconv.Itoa(s.n)
	reached := false
	for _, p := range programs {
		for _, batch := range p.batches(s.n) {
			reached = true
			var sum time.Duration
			for _, t := range batch {
				sum += t.took
			}
			v, out := r.exec(ctx, p, batch, 5*sum+r.slack, bug)
			if v == caught {
				v, out = r.again(ctx, p, batch, out, bug)
			}
			if ctx.Err() != nil {
				return row{}, ctx.Err()
			}
			if v == caught {
				return row{site: s.site, verdict: caught, by: firstFailure(out, p.pkg)}, nil
			}
			if v == hung {
				return row{site: s.site, verdict: hung, by: p.pkg}, nil
			}
		}
	}
	if !reached {
		return row{site: s.site, verdict: survived, by: "no test comes upon it"}, nil
	}
	return row{site: s.site, verdict: survived}, nil
}

// again runs the test that failed once more: a bug that a test notices now and then is not
// told from a test that fails now and then.
func (r *runner) again(ctx context.Context, p *program, batch []*test, out, bug string) (verdict, string) {
	name, _, _ := strings.Cut(firstFailure(out, p.pkg), "/")
	for _, t := range batch {
		if t.name == name {
			batch = []*test{t}
			break
		}
	}
	for range 2 {
		if v, more := r.exec(ctx, p, batch, 10*time.Minute, bug); v != survived {
			return v, more
		}
	}
	fmt.Fprintf(r.log, "%s failed once in three runs, which is not counted:\n%s\n", name, out)
	return survived, ""
}

// exec runs tests with a variable set, and returns what they printed last.
func (r *runner) exec(ctx context.Context, p *program, which []*test, limit time.Duration, with string) (verdict, string) {
	tmp, err := os.MkdirTemp(r.tmp, "run")
	if err != nil {
		return survived, err.Error()
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := append([]string{p.bin, "-test.short", "-test.failfast", "-test.timeout=" + limit.String()}, p.args...)
	if len(p.args) == 0 {
		var names []string
		for _, t := range which {
			names = append(names, t.name)
		}
		args = append(args, "-test.run=^("+strings.Join(names, "|")+")$")
	}
	cmd := confine(ctx, tmp, args)
	cmd.Dir = filepath.Join(r.root, p.pkg)
	cmd.Env = append(os.Environ(), with)
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
