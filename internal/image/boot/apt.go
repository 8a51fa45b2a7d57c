package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"mvm"
)

const (
	kernelPackage  = "linux-image-cloud-amd64" // depends on the newest versioned one
	busyboxPackage = "busybox-static"
	certsPackage   = "ca-certificates"
)

// apt asks the host's apt: its sources, keys and proxies hold. A status file of our
// own, empty, makes it resolve all that a package needs, whatever the host has
// installed, and keeps it from touching the host's packages.
type apt struct {
	dir string
}

// Deb is a package at an exact version: the name of its file has both.
type Deb struct {
	File string `json:"file"`
}

// Name is the package's name.
func (d Deb) Name() string { n, _, _ := strings.Cut(d.File, "_"); return n }

func openAPT(dir string) (*apt, error) {
	a := &apt{dir: dir}
	for _, d := range []string{"state", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("open apt folder: %w", err)
		}
	}
	f, err := os.OpenFile(a.status(), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open apt folder: %w", err)
	}
	return a, f.Close()
}

func (a *apt) status() string { return filepath.Join(a.dir, "state", "status") }

// kernel resolves the kernel's versioned package, whose modules fit it.
func (a *apt) kernel(ctx context.Context, progress func(mvm.Progress)) (Deb, error) {
	debs, err := a.closure(ctx, []string{kernelPackage}, progress)
	if err != nil {
		return Deb{}, err
	}
	for _, d := range debs {
		if versioned.MatchString(d.Name()) {
			return d, nil
		}
	}
	return Deb{}, mvm.Errorf(mvm.KindUnavailable, "package %s depends on no versioned kernel", kernelPackage)
}

var versioned = regexp.MustCompile(`^linux-image-[0-9][0-9a-z.+-]*-cloud-amd64$`)

// one resolves a single package without what it depends on.
func (a *apt) one(ctx context.Context, name string, progress func(mvm.Progress)) (Deb, error) {
	debs, err := a.closure(ctx, []string{name}, progress)
	if err != nil {
		return Deb{}, err
	}
	for _, d := range debs {
		if d.Name() == name {
			return d, nil
		}
	}
	return Deb{}, mvm.Errorf(mvm.KindUnavailable, "apt offers no package %s", name)
}

// closure resolves the packages and all that they depend on. Where apt knows none of
// them, its lists are fetched once.
func (a *apt) closure(ctx context.Context, names []string, progress func(mvm.Progress)) ([]Deb, error) {
	args := append([]string{"install", "--print-uris", "-y", "-qq", "--no-install-recommends"}, names...)
	out, err := a.run(ctx, a.dir, args...)
	if err != nil && ctx.Err() == nil {
		if uerr := a.update(ctx, progress); uerr != nil {
			return nil, errors.Join(err, uerr)
		}
		out, err = a.run(ctx, a.dir, args...)
	}
	if err != nil {
		return nil, err
	}
	return parseURIs(out)
}

// update fetches the host's package lists.
func (a *apt) update(ctx context.Context, progress func(mvm.Progress)) error {
	progress(mvm.Progress{Text: "fetching apt's package lists"})
	_, err := a.run(ctx, a.dir, "update", "-qq")
	return err
}

// uriLine matches "'uri' file size hash"; the hash is not there for local files.
var uriLine = regexp.MustCompile(`^'[^']*' ([A-Za-z0-9][A-Za-z0-9.+~%:-]*_[A-Za-z0-9.+~%:-]+_(?:amd64|all)\.deb) [0-9]+`)

func parseURIs(out string) ([]Deb, error) {
	var debs []Deb
	for line := range strings.Lines(out) {
		if m := uriLine.FindStringSubmatch(line); m != nil {
			debs = append(debs, Deb{File: m[1]})
		}
	}
	if len(debs) == 0 {
		return nil, mvm.Errorf(mvm.KindUnavailable, "apt resolved to no package: %.200q", out)
	}
	return debs, nil
}

// download fetches exactly these packages into dir; apt checks their signatures. When
// the mirror has gone on to newer ones, the error says to try again.
func (a *apt) download(ctx context.Context, dir string, debs []Deb, progress func(mvm.Progress)) error {
	progress(mvm.Progress{Text: fmt.Sprintf("downloading %d packages", len(debs)), Total: int64(len(debs))})
	args := []string{"download", "-qq"}
	for _, d := range debs {
		parts := strings.Split(strings.TrimSuffix(d.File, ".deb"), "_")
		args = append(args, parts[0]+"="+strings.ReplaceAll(parts[1], "%3a", ":"))
	}
	_, err := a.run(ctx, dir, args...)
	if err != nil && ctx.Err() == nil {
		if uerr := a.update(ctx, progress); uerr != nil {
			return errors.Join(err, uerr)
		}
		_, err = a.run(ctx, dir, args...)
	}
	if err != nil {
		return err
	}
	for _, d := range debs {
		if _, err := os.Stat(filepath.Join(dir, d.File)); err != nil {
			return mvm.Errorf(mvm.KindUnavailable, "apt did not fetch package %s: %w", d.File, err)
		}
	}
	return nil
}

func (a *apt) run(ctx context.Context, dir string, args ...string) (string, error) {
	args = append([]string{
		"-o", "Dir::State::status=" + a.status(),
		"-o", "Dir::Cache=" + a.dir,
		"-o", "APT::Architecture=amd64",
		"-o", "Acquire::Retries=3",
	}, args...)
	return Run(ctx, dir, "apt-get", args...)
}

// Unpack puts the content of a package file below dir. None of its scripts run. A
// folder that is a symbolic link in dir, as /bin is, stays one.
func Unpack(ctx context.Context, file, dir string) (err error) {
	read := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	content, err := read.StdoutPipe()
	if err != nil {
		return err
	}
	var readErr Tail
	read.Stderr, read.WaitDelay = &readErr, killDelay
	if err := read.Start(); err != nil {
		return notStarted("dpkg-deb", err)
	}
	_, err = runWith(ctx, content, dir, "tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--file=-")
	if werr := read.Wait(); werr != nil && ctx.Err() == nil {
		err = errors.Join(err, mvm.Errorf(mvm.KindInternal, "read package %s: %w: %s", filepath.Base(file), werr, readErr.Last()))
	}
	return err
}

// killDelay is how long a program that was killed may hold its pipes.
const killDelay = 5 * time.Second

// Run runs a program of the host and returns its standard output. Its errors are
// KindUnavailable: mostly a source that can't be reached.
func Run(ctx context.Context, dir, name string, args ...string) (string, error) {
	return runWith(ctx, nil, dir, name, args...)
}

func runWith(ctx context.Context, stdin io.Reader, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdin, cmd.WaitDelay = dir, stdin, killDelay
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, errOut Tail
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if cmd.Process == nil {
		return "", notStarted(name, err)
	}
	if err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "run %s %s: %w: %s", name, verb(args), err, errOut.Last())
	}
	return out.String(), nil
}

func notStarted(name string, err error) error {
	return mvm.Errorf(mvm.KindUnavailable, "run %s: %w", name, err).
		WithFix("built-in images are built on Debian or Ubuntu hosts; install %s", name)
}

// verb is the first argument that is no option, for messages.
func verb(args []string) string {
	for i := 0; i < len(args); i++ {
		if args[i] == "-o" {
			i++
			continue
		}
		if !strings.HasPrefix(args[i], "-") {
			return args[i]
		}
	}
	return ""
}
