package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// maxStateFiles bounds the files that are counted for state_size_bytes.
const maxStateFiles = 100_000

// integrations are the pieces of the workload that are checkpointed before a sleep
// (formats.md section 6). Commands run one at a time.
type integrations struct {
	agent *Agent
	turn  chan struct{} // held while commands run

	mu     sync.Mutex
	list   []mvm.Integration
	env    map[string]string
	states map[string]string // "active", "paused", "pending", or "error: …"
}

func newIntegrations(a *Agent) *integrations {
	return &integrations{agent: a, turn: make(chan struct{}, 1), states: map[string]string{}}
}

// configure replaces the list. An integration that is new is pending.
func (i *integrations) configure(list []mvm.Integration, env map[string]string) error {
	for _, in := range list {
		if err := mvm.ValidateName("integration", in.Name); err != nil {
			return err
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	states := map[string]string{}
	for _, in := range list {
		if states[in.Name] = i.states[in.Name]; states[in.Name] == "" {
			states[in.Name] = "pending"
		}
	}
	i.list, i.env, i.states = slices.Clone(list), maps.Clone(env), states
	return nil
}

// checkpoint runs the checkpoint commands of the named integrations, all of them
// with none named, and returns those that failed, with the reasons.
func (i *integrations) checkpoint(ctx context.Context, names []string) guestproto.CheckpointResult {
	result := guestproto.CheckpointResult{Failed: []string{}}
	var why []string
	fail := func(name string, err error) {
		result.Failed = append(result.Failed, name)
		why = append(why, fmt.Sprintf("%s: %v", workload.Clip(name), err))
	}
	release, err := i.take(ctx)
	if err != nil {
		detail := err.Error()
		return guestproto.CheckpointResult{Failed: names, Detail: &detail}
	}
	defer release()
	if len(names) == 0 {
		names = i.names()
	}
	for _, name := range names {
		in, ok := i.find(name)
		if !ok {
			fail(name, errors.New("there is no such integration"))
			continue
		}
		err := i.checkpointOne(ctx, in)
		i.setState(name, "paused", err)
		if err != nil {
			fail(name, err)
		}
	}
	if result.Success = len(result.Failed) == 0; !result.Success {
		detail := strings.Join(why, "; ")
		result.Detail = &detail
	}
	return result
}

func (i *integrations) checkpointOne(ctx context.Context, in mvm.Integration) error {
	root, err := i.folder(in.Name)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := i.command(ctx, in, in.CheckpointCmd); err != nil {
		return err
	}
	file := path.Join("integrations", in.Name, "checkpoint")
	return replaceInRoot(root, file, []byte(time.Now().UTC().Format(time.RFC3339Nano)+"\n"))
}

// restore runs the restore commands of every integration that is not active.
func (i *integrations) restore(ctx context.Context) error {
	release, err := i.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	var errs []error
	for _, name := range i.names() {
		in, ok := i.find(name)
		if !ok || i.state(name) == "active" {
			continue
		}
		root, err := i.folder(name)
		if err == nil {
			root.Close()
			err = i.command(ctx, in, in.RestoreCmd)
		}
		i.setState(name, "active", err)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// take waits for the turn to run commands.
func (i *integrations) take(ctx context.Context) (release func(), err error) {
	select {
	case i.turn <- struct{}{}:
		return func() { <-i.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other integration commands: %w", ctx.Err())
	}
}

// command runs a command of the user's own with the shell, as the workload's user,
// within the integration's time: then its process group is killed.
func (i *integrations) command(ctx context.Context, in mvm.Integration, cmd string) error {
	if cmd == "" {
		return nil
	}
	name := in.Name
	ctx, cancel := context.WithTimeoutCause(ctx, in.Timeout(), fmt.Errorf("not done within %s", in.Timeout()))
	defer cancel()
	user := i.agent.workload()
	env := workload.UserEnv(user)
	i.mu.Lock()
	maps.Copy(env, i.env)
	i.mu.Unlock()
	env["MVM_INTEGRATION"] = name
	env["MVM_INTEGRATION_STATE"] = path.Join(i.agent.paths.Data, "integrations", name, "state")
	code, out, err := i.agent.procs.Run(ctx, workload.Command{Argv: []string{"/bin/sh", "-c", cmd}, Env: workload.JoinEnv(env), User: user})
	if err == nil && code == 0 {
		return nil
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = fmt.Errorf("exited with code %d", code)
	}
	if out = strings.TrimSpace(out); out != "" {
		err = fmt.Errorf("%w: %s", err, workload.Clip(out))
	}
	return err
}

// folder makes /data/integrations/<name>/state for the workload and returns a root
// at /data: the workload can change what is below, so nothing may lead out of it.
func (i *integrations) folder(name string) (*os.Root, error) {
	if err := os.MkdirAll(i.agent.paths.Data, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(i.agent.paths.Data)
	if err != nil {
		return nil, err
	}
	user := i.agent.workload()
	for _, dir := range []string{"integrations", "integrations/" + name, "integrations/" + name + "/state"} {
		err := root.Mkdir(dir, 0o755)
		if err == nil && user.UID != os.Getuid() {
			err = root.Lchown(dir, user.UID, user.GID)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			root.Close()
			return nil, err
		}
	}
	return root, nil
}

func (i *integrations) names() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	var names []string
	for _, in := range i.list {
		names = append(names, in.Name)
	}
	return names
}

func (i *integrations) find(name string) (mvm.Integration, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, in := range i.list {
		if in.Name == name {
			return in, true
		}
	}
	return mvm.Integration{}, false
}

func (i *integrations) state(name string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.states[name]
}

// setState records the state, or the error. One that was taken away meanwhile is
// left out.
func (i *integrations) setState(name, state string, err error) {
	if err != nil {
		state = "error: " + err.Error()
		i.agent.log.Error("integration", "name", name, "error", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.states[name]; ok {
		i.states[name] = state
	}
}
