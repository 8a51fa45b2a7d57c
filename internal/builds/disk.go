package builds

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/build"
	"mvm/internal/sys"
)

// record is <id>.json.
type record struct {
	Version int         `json:"version"` // of this format: 1
	ID      string      `json:"id"`
	Tenant  string      `json:"tenant"`
	Pools   []string    `json:"pools,omitempty"`
	Ref     string      `json:"ref"`
	Role    mvm.Role    `json:"role,omitempty"`
	Profile string      `json:"profile,omitempty"`
	State   build.State `json:"state"`
	By      mvm.Asker   `json:"by"`
	Request string      `json:"request,omitempty"`
	Created time.Time   `json:"created"`
	Began   time.Time   `json:"began,omitzero"`
	Ended   time.Time   `json:"ended,omitzero"`
	Step    string      `json:"step,omitempty"`
	Image   string      `json:"image,omitempty"`
	Error   string      `json:"error,omitempty"`
	Kind    mvm.Kind    `json:"kind,omitempty"`
	Fix     string      `json:"fix,omitempty"`
	Tries   int         `json:"tries,omitempty"`
}

func (r record) noun() build.Run {
	return build.Run{ID: r.ID, Tenant: r.Tenant, Pools: r.Pools, Ref: r.Ref, Role: r.Role, Profile: r.Profile, State: r.State, By: r.By, Request: r.Request,
		Created: r.Created, Began: r.Began, Ended: r.Ended, Step: r.Step, Image: r.Image, Error: r.Error, Kind: r.Kind, Fix: r.Fix, Tries: r.Tries}
}

func recordOf(r build.Run) record {
	return record{Version: 1, ID: r.ID, Tenant: r.Tenant, Pools: r.Pools, Ref: r.Ref, Role: r.Role, Profile: r.Profile, State: r.State, By: r.By, Request: r.Request,
		Created: r.Created, Began: r.Began, Ended: r.Ended, Step: r.Step, Image: r.Image, Error: r.Error, Kind: r.Kind, Fix: r.Fix, Tries: r.Tries}
}

// maxRecord bounds a record that is read.
const maxRecord = 64 << 10

func (b *Builds) path(id, ext string) string { return filepath.Join(b.opt.Dir, id+ext) }
func (b *Builds) logPath(id string) string   { return b.path(id, ".log") }

func (b *Builds) save(r build.Run) error {
	return sys.WriteJSON(b.path(r.ID, ".json"), recordOf(r), 0o600)
}

// remove removes the build's files. The record goes last: what is cut off is removed by the next Open.
func (b *Builds) remove(id string) error {
	var errs []error
	for _, p := range []string{b.logPath(id), b.path(id, ".json")} {
		if err := os.Remove(p); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Open reads what is kept. Builds that were under way have failed; those of tenants that known
// does not know, and files that belong to no build, are removed.
func (b *Builds) Open(known func(tenant string) bool) error {
	if err := sys.MkdirAll(b.opt.Dir, 0o700); err != nil {
		return mvm.Errorf(mvm.KindInternal, "open builds: %w", err)
	}
	entries, err := os.ReadDir(b.opt.Dir)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "open builds: %w", err)
	}
	tenants := map[string]bool{}
	for _, e := range entries {
		id, isRecord := strings.CutSuffix(e.Name(), ".json")
		if !isRecord {
			continue
		}
		r, err := b.read(id)
		switch {
		case err != nil:
			b.opt.Log.Warn("build left out", "build", id, "error", err)
		case !known(r.Tenant):
			err = b.remove(id)
		default:
			tenants[r.Tenant] = true
			b.load(r)
		}
		if err != nil {
			b.opt.Log.Warn("open build", "build", id, "error", err)
		}
	}
	b.removeOrphans(entries)
	for t := range tenants {
		b.trim(t)
	}
	return nil
}

// read reads one record.
func (b *Builds) read(id string) (build.Run, error) {
	var r record
	info, err := os.Stat(b.path(id, ".json"))
	if err == nil && info.Size() > maxRecord {
		err = errors.New("it is too large")
	}
	if err != nil {
		return build.Run{}, err
	}
	text, err := os.ReadFile(b.path(id, ".json"))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err == nil && (r.ID != id || r.Version != 1 || !slices.Contains(build.States(), r.State)) {
		err = errors.New("it is not a record of this version")
	}
	if err == nil {
		err = mvm.ValidateBuildID(id)
	}
	return r.noun(), err
}

// load takes up a build that is kept.
func (b *Builds) load(of build.Run) {
	r := &run{Run: of, got: map[string]outcome{}, news: make(chan struct{}), done: make(chan struct{})}
	close(r.done)
	cutOff := !of.State.Ended()
	if cutOff {
		r.State, r.Ended = build.Failed, b.lastSign(of)
		r.Error = "it was interrupted: the agent was stopped while the build was " + string(of.State)
		if of.State == build.Queued { // the record of a build says so until it ends
			r.Error = "it was interrupted: the agent was stopped before the build ended"
		}
		r.Kind = mvm.KindUnavailable
		r.Fix = "run `mvm pool build " + r.pool().String() + "`; the agent itself builds what its pools lack"
	}
	b.mu.Lock()
	b.all[r.ID] = r
	of = r.copy()
	b.mu.Unlock()
	if !cutOff {
		return
	}
	b.record(of, mvm.Asker{}, false)
	if f, err := os.OpenFile(b.logPath(of.ID), os.O_WRONLY|os.O_APPEND, 0); err == nil {
		_, _ = f.WriteString(time.Now().UTC().Format(time.RFC3339) + " failed: " + of.Error + "\n") // a log that can't be written is no error
		_ = f.Close()
	}
}

// lastSign is when a build that was cut off was last heard of.
func (b *Builds) lastSign(r build.Run) time.Time {
	if info, err := os.Stat(b.logPath(r.ID)); err == nil && info.ModTime().After(r.Created) {
		return info.ModTime()
	}
	return r.Created
}

// removeOrphans removes files that belong to no build.
func (b *Builds) removeOrphans(entries []os.DirEntry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ".")
		if b.all[id] == nil {
			if err := os.Remove(filepath.Join(b.opt.Dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				b.opt.Log.Warn("remove what belongs to no build", "file", e.Name(), "error", err)
			}
		}
	}
}

// trim removes the oldest builds that ended beyond those that are kept: of the tenant, and then of
// whoever has the most.
func (b *Builds) trim(tenant string) {
	for _, id := range b.beyond(tenant) {
		b.forget(id)
	}
}

func (b *Builds) beyond(tenant string) (ids []string) {
	all, by := 0, map[string][]string{}
	for _, r := range b.List("") {
		if r.State.Ended() {
			by[r.Tenant] = append(by[r.Tenant], r.ID)
			all++
		}
	}
	drop := func(tenant string) {
		n := len(by[tenant]) - 1
		ids, by[tenant] = append(ids, by[tenant][n]), by[tenant][:n]
		all--
	}
	for len(by[tenant]) > b.limits.Kept {
		drop(tenant)
	}
	for all > b.limits.KeptAll {
		most := ""
		for t, list := range by {
			if n := len(by[most]); len(list) > n || len(list) == n && t < most {
				most = t
			}
		}
		drop(most)
	}
	return ids
}

// forget removes a build that ended.
func (b *Builds) forget(id string) {
	b.mu.Lock()
	delete(b.all, id)
	b.mu.Unlock()
	if err := b.remove(id); err != nil {
		b.opt.Log.Warn("remove build", "build", id, "error", err)
	}
}
