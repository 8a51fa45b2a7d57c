package nix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"mvm"
	"mvm/internal/image/nix/cage"
)

// run is a cage with Nix in it, and the proxy that it reaches.
type run struct {
	*cage.Cage
	tools   tools
	proxy   *proxy
	said    *sayings
	cancel  context.CancelFunc
	options Options
}

// maxAnswer bounds what Nix answers to a question.
const maxAnswer = 4 << 20

// start builds a cage for the reference.
func (b *Builder) start(ctx context.Context, r reference, progress func(mvm.Progress)) (*run, error) {
	t, err := findTools(ctx)
	if err != nil {
		return nil, err
	}
	o := b.o
	said := &sayings{progress: progress}
	c := cage.Config{
		Disk: o.Disk, Inodes: o.inodes(), Memory: o.Memory, Processes: maxProcesses, Files: maxFiles, Within: o.Within,
		Show: t.files, Binds: map[string]string{},
		Texts: map[string]string{"/etc/nix/nix.conf": o.config(t), "/etc/passwd": passwd, "/etc/group": group, "/etc/hosts": "127.0.0.1 localhost\n"},
		Own:   []string{"/nix/store", "/nix/var", "/home", "/tmp"},
		Log:   said.line,
	}
	if r.folder != "" {
		c.Binds[flakeAt] = r.folder
	}
	ctx, cancel := context.WithCancel(ctx)
	g, err := cage.Start(ctx, c)
	if err != nil {
		cancel()
		return nil, err
	}
	return &run{Cage: g, tools: t, said: said, options: o, cancel: cancel, proxy: newProxy(ctx, g.Listener(), o.allow)}, nil
}

// Try builds a cage with Nix in it, and takes it down. It is nil where this process can.
func Try(ctx context.Context) error {
	o := DefaultOptions()
	o.Disk, o.Memory, o.Within, o.allow = 64<<20, 256<<20, time.Minute, allowPublic
	r, err := (&Builder{scheme: Path, o: o}).start(ctx, reference{}, func(mvm.Progress) {})
	if err != nil {
		return err
	}
	return r.close()
}

// The users of a cage, for programs that ask for names.
const (
	passwd = "root:x:0:0::/:/bin/false\nnix:x:1:1::/home:/bin/false\n"
	group  = "root:x:0:\nnix:x:1:\n"
)

// close ends the cage and the proxy.
func (r *run) close() error {
	err := r.Cage.Close()
	r.cancel()
	r.proxy.close()
	return err
}

// config is nix.conf.
func (o Options) config(t tools) string {
	lines := []string{
		"experimental-features = nix-command flakes",
		"pure-eval = true",
		"accept-flake-config = false",
		"flake-registry =",
		"use-registries = false",
		"sandbox = true",
		"sandbox-fallback = false",
		"build-users-group =",
		"builders =",
		"max-jobs = 2",
		"system-features = benchmark big-parallel",
		"connect-timeout = 15",
		"download-attempts = 2",
		"warn-dirty = false",
		"substituters = " + strings.Join(o.Substituters, " "),
		fmt.Sprintf("timeout = %d", seconds(o.BuildTimeout)),
		fmt.Sprintf("max-silent-time = %d", seconds(o.SilentTimeout)),
		fmt.Sprintf("max-build-log-size = %d", o.LogBytes),
	}
	if t.shell != "" {
		lines = append(lines, "sandbox-paths = /bin/sh="+t.shell)
	}
	return strings.Join(lines, "\n") + "\n"
}

func seconds(d time.Duration) int { return max(1, int(d/time.Second)) }

// env is the environment of Nix.
func env() []string {
	proxy := fmt.Sprintf("http://127.0.0.1:%d", cage.ProxyPort)
	return []string{"HOME=/home", "USER=nix", "PATH=/usr/bin:/bin", "TMPDIR=/tmp", "LC_ALL=C", "TERM=dumb",
		"NIX_CONF_DIR=/etc/nix", "NIX_USER_CONF_FILES=/nonexistent", "NIX_REMOTE=local", "NIX_SSL_CERT_FILE=" + certificates,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_SSL_CAINFO=" + certificates,
		"http_proxy=" + proxy, "https_proxy=" + proxy, "HTTPS_PROXY=" + proxy, "all_proxy=" + proxy, "no_proxy="}
}

// ask runs Nix and decodes its answer.
func (r *run) ask(answer any, args ...string) error {
	var out bytes.Buffer
	c := cage.Command{Path: r.tools.nix, Env: env(), Args: append(append([]string{"nix", "--log-format", "internal-json"}, args...), "--no-update-lock-file")}
	err := r.Run(c, func(p []byte) error {
		if out.Len()+len(p) > maxAnswer {
			return mvm.Errorf(mvm.KindInvalid, "nix answered more than %d MiB", maxAnswer>>20)
		}
		out.Write(p)
		return nil
	})
	var failed *cage.ExitError
	if errors.As(err, &failed) {
		return r.explain(err)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		return mvm.Errorf(mvm.KindInternal, "read the answer of nix %s: %w", args[0], err)
	}
	return nil
}

// explain says why Nix has failed.
func (r *run) explain(err error) error {
	why := r.said.why(err)
	kind, network := r.proxy.kindOf()
	e := mvm.Errorf(kind, "%w", why)
	switch text := why.Error(); {
	case kind == mvm.KindPolicy:
		return mvm.Errorf(kind, "%w (it wanted to %w)", why, network).WithFix("a flake may fetch over HTTPS from public addresses only")
	case kind == mvm.KindUnavailable:
		return mvm.Errorf(kind, "%w (%w)", why, network).WithFix("check the host's network and the source, then build again")
	case strings.Contains(text, "signal 9"):
		return e.WithFix("it may have used more than its %d MiB of memory: raise nix_memory_mib in agent.toml", r.options.Memory>>20)
	case strings.Contains(text, "lock file"):
		return e.WithFix("run nix flake lock in the flake and commit flake.lock: mvm builds what is locked")
	case strings.Contains(text, "Permission denied"):
		return e.WithFix("the build runs as a user of its own: every file of the flake must be readable by all users")
	case strings.Contains(text, "does not provide attribute"):
		return e.WithFix("the flake must have that package, whose output is a folder with image.json: see docs/nix.md")
	case strings.Contains(text, "No space left"):
		return e.WithFix("the build has %d MiB for its store: raise nix_store_mib in agent.toml", r.options.Disk>>20)
	}
	return e.WithFix("see the log of the build")
}
