package tenants

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"mvm"
	"mvm/internal/cli/command"
	"mvm/internal/manifest"
)

// watchPoll is how often files are looked at; it costs a stat for each.
const watchPoll = 500 * time.Millisecond

// errChanged ends a deploy that is still waiting when its files say something else.
var errChanged = errors.New("its files have changed")

// watchDeploy applies the manifest until the context ends.
func (a *app) watchDeploy(ctx context.Context, path string, o deployOptions) error {
	a.Say("watching %s; Ctrl-C ends it", path)
	interval := time.Duration(o.interval) * time.Second
	for {
		d, from, err := manifest.ReadDeployment(path, manifest.Options{SecretDirs: o.secretDirs, Remote: a.IsRemote()})
		was := fingerprint(from.Files)
		if err == nil {
			err = a.deployUntilChanged(ctx, d, o, from, was)
		}
		if ctx.Err() == nil && err != nil {
			command.Report(a.Errs, err)
		}
		if err := waitChange(ctx, from.Files, was, interval); err != nil {
			return command.Followed(ctx, true, err)
		}
	}
}

// deployUntilChanged applies the deployment, and leaves off waiting for it when one of
// its files is no longer what it was.
func (a *app) deployUntilChanged(ctx context.Context, d mvm.Deployment, o deployOptions, from manifest.Source, was string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		if waitChange(ctx, from.Files, was, 0) == nil {
			cancel(errChanged)
		}
	})
	err := a.deploy(ctx, d, from.Digest, o)
	cancel(nil)
	watcher.Wait()
	if err != nil && errors.Is(context.Cause(ctx), errChanged) {
		a.Say("a file has changed: deploying again")
		return nil
	}
	return err
}

// waitChange returns nil when the files are no longer what they were, or when the
// interval is over (0: there is none), and the context's error when that ends first.
func waitChange(ctx context.Context, files []string, was string, interval time.Duration) error {
	var timeout <-chan time.Time
	if interval > 0 {
		timer := time.NewTimer(interval)
		defer timer.Stop()
		timeout = timer.C
	}
	tick := time.NewTicker(watchPoll)
	defer tick.Stop()
	for fingerprint(files) == was {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout:
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// fingerprint changes when a file is written, replaced, made or removed.
func fingerprint(files []string) string {
	var b strings.Builder
	for _, path := range files {
		st, err := os.Stat(path)
		if err != nil {
			b.WriteString("gone;")
			continue
		}
		fmt.Fprintf(&b, "%d %d %v;", st.ModTime().UnixNano(), st.Size(), st.Sys())
	}
	return b.String()
}
