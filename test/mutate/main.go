// Command mutate plants small bugs in packages of mvm, one at a time, and sees whether
// the tests notice. A bug is a change of a few characters: a condition negated, a limit
// off by one, a call left out, an error dropped. The seed decides which.
//
//	go run ./test/mutate -seed 1 -n 160
//	go run ./test/mutate -n 12 internal/policy
//
// Nothing in the tree changes: all bugs of a package are compiled into one program with
// `go test -overlay`, where a variable of the environment chooses one. Each test runs once
// without a bug and writes down which bugs it comes upon; a bug has only those tests run, the
// quick ones first, until one fails and fails again. As root, the tests run with a PID
// namespace and a /tmp of their own, and can write nowhere else but to the user's caches, so
// that a bug does no harm to the host. Bugs that do not compile do not count. Those that
// change nothing that anybody could notice are in equivalent.txt with the reason.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == confineArg {
		code, err := confined(os.Args[2:])
		if err != nil {
			fmt.Fprintf(os.Stderr, "mutate: %v\n", err)
			code = confineFailed
		}
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := &runner{log: os.Stderr, slack: 15 * time.Second}
	seed := flag.Uint64("seed", 1, "which bugs")
	n := flag.Int("n", 160, "how many bugs that compile")
	most := flag.Float64("most", 15, "exit with 1 where more than this percentage survives")
	only := flag.String("only", "", "plant only bugs whose name contains this")
	flag.IntVar(&r.jobs, "jobs", 2, "how many at a time")
	flag.DurationVar(&r.longest, "longest", 10*time.Minute, "leave out tests that take longer without a bug")
	list := flag.Bool("list", false, "print the names of all bugs that there are, and plant none")
	flag.Parse()
	t, err := r.run(ctx, *seed, *n, *only, *list, flag.Args())
	t.print(os.Stdout)
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "mutate: %v\n", err)
		os.Exit(2)
	case t.rate() > *most:
		os.Exit(1)
	}
}

// target is packages to plant bugs in, and what tests them: their own tests, and those of
// packages that use them, which run on bugs that their own did not notice.
type target struct {
	pkgs  []string
	share int // its part of the bugs
	tests []tests
}

func (g target) name() string { return g.pkgs[0] }

// tests is a package with tests and what to run of them; all where nothing is said.
type tests struct {
	pkg  string
	args []string
}

func own(pkg string, share int, more ...tests) target {
	return target{[]string{pkg}, share, append([]tests{{pkg: pkg}}, more...)}
}

// agentParts are packages that only the agent is made of, and its tests test.
var agentParts = []string{"agent", "aside", "declare", "deliver", "fleet", "folders", "health", "idle", "ingress", "journal", "lifecycle", "live", "netprobe", "netstate",
	"quota", "reconcile", "recovery", "repair", "session", "snapshot", "wait"}

// agent is the agent and those of its parts that are there.
func agent(root string, share int) target {
	g := target{share: share}
	for _, part := range agentParts {
		pkg := "internal/" + part
		if files, _ := filepath.Glob(filepath.Join(root, pkg, "*.go")); len(files) > 0 {
			g.pkgs = append(g.pkgs, pkg)
		}
		if files, _ := filepath.Glob(filepath.Join(root, pkg, "*_test.go")); len(files) > 0 {
			g.tests = append(g.tests, tests{pkg: pkg})
		}
	}
	g.tests = append(g.tests, tests{pkg: "internal/sim", args: []string{"-test.run=^TestSimulation$", "-seeds=3"}})
	return g
}

// targets are the packages that have the most to lose.
func targets(root string) []target {
	return []target{
		own("internal/driver/qemu/spawn", 10, tests{pkg: "internal/hostd"}),
		own("internal/driver/qemu/qmp", 6),
		own("internal/driver/fake", 6),
		own("internal/hostd", 20),
		own("internal/guest", 30),
		own("internal/guest/gateway", 12),
		own("internal/guest/gateway/roster", 10, tests{pkg: "internal/guest/gateway"}),
		own("internal/guest/gateway/table", 5, tests{pkg: "internal/guest/gateway"}),
		own("internal/guest/gateway/wire", 5, tests{pkg: "internal/guest/gateway"}),
		agent(root, 60),
	}
}

// choose returns the targets that the arguments name, all where there are none. A package
// that is no target has its own tests.
func choose(root string, names []string) []target {
	if len(names) == 0 {
		return targets(root)
	}
	var chosen []target
	for _, name := range names {
		name = strings.TrimPrefix(filepath.ToSlash(filepath.Clean(name)), "mvm/")
		t := own(name, 1)
		for _, known := range targets(root) {
			if slices.Contains(known.pkgs, name) {
				t = known
			}
		}
		chosen = append(chosen, t)
	}
	return chosen
}

// run plants n bugs.
func (r *runner) run(ctx context.Context, seed uint64, n int, only string, list bool, names []string) (table, error) {
	began := time.Now()
	t := table{seed: seed}
	root, err := moduleRoot()
	if err != nil {
		return t, err
	}
	r.root = root
	same, err := equivalents(filepath.Join(root, "test", "mutate", "equivalent.txt"))
	if err != nil {
		return t, err
	}
	if r.tmp, err = temporary(); err != nil {
		return t, err
	}
	defer func() { _ = os.RemoveAll(r.tmp) }()
	chosen := choose(root, names)
	for _, g := range chosen {
		sources, err := load(root, g.pkgs)
		if err != nil {
			return t, err
		}
		var sites []site
		for _, p := range sources {
			sites = append(sites, p.find()...)
		}
		sites = order(sites, seed, only)
		if list {
			for _, s := range sites {
				t.rows = append(t.rows, row{site: s, verdict: listed})
			}
			continue
		}
		if err := r.target(ctx, &t, g, sources, sites, share(n, g, chosen), same); err != nil {
			return t, fmt.Errorf("plant bugs in %s: %w", g.name(), err)
		}
	}
	t.took = time.Since(began)
	return t, nil
}

// share is how many of the n bugs are the target's.
func share(n int, g target, all []target) int {
	sum := 0
	for _, a := range all {
		sum += a.share
	}
	return (n*g.share + sum - 1) / sum
}

// temporary makes a folder that is not in /tmp, of which tests have one of their own.
func temporary() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	return os.MkdirTemp(cache, "mutate-")
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.Join(errors.New("run it in the folder of mvm's source"), err)
}
