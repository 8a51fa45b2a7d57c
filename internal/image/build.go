package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/sys"
)

// Build is Run for who follows no stage. The store keeps the log.
func (s *DirStore) Build(ctx context.Context, req Request, progress func(mvm.Progress)) (Image, error) {
	return s.Run(ctx, Job{Request: req, Progress: progress})
}

// Run is described at Store. When the request can't be resolved because a source does not
// answer (KindUnavailable), the newest image of the request serves.
func (s *DirStore) Run(ctx context.Context, job Job) (Image, error) {
	if job.Progress == nil {
		job.Progress = func(mvm.Progress) {}
	}
	if job.Entered == nil {
		job.Entered = func(Stage) {}
	}
	job.Request.Arch = cmp.Or(job.Request.Arch, Arch)
	b, err := BuilderOf(s.builders, job.Request.Ref)
	if err != nil {
		return Image{}, err
	}
	own, err := LockExclusive(ctx, s.path("locks", hash(job.Request.id())), func() {
		job.say("waiting for another build of the same image")
	})
	if err != nil {
		return Image{}, err
	}
	img, err := s.buildLocked(ctx, b, job)
	return img, errors.Join(s.explain(job.Request.Ref, err), own.Unlock())
}

// id names what the request is for, whoever asks.
func (r Request) id() string {
	return r.Ref + "\x00" + string(r.Role) + "\x00" + r.Profile + "\x00" + r.Arch
}

func (j Job) say(format string, args ...any) {
	j.Progress(mvm.Progress{Target: j.Request.Ref, Text: fmt.Sprintf(format, args...)})
}

func (s *DirStore) buildLocked(ctx context.Context, b Builder, job Job) (img Image, err error) {
	req := job.Request
	job.Entered(StageResolving)
	plan, img, ok, err := s.resolve(ctx, b, job)
	if ok || err != nil {
		return img, err
	}
	job.Entered(StageQueued)
	release, err := s.turns.Take(ctx, req.Tenant, func() { job.say("waiting for other builds to end") })
	if err != nil {
		return Image{}, fmt.Errorf("wait for other builds: %w", err)
	}
	defer release()
	start := time.Now()
	plan.Build, plan.Log = job.ID, job.Log
	if job.Log == "" {
		l, lerr := s.openLog(req)
		if lerr != nil {
			return Image{}, lerr
		}
		plan.Build, plan.Log = l.id, l.path
		progress := job.Progress
		job.Progress = func(p mvm.Progress) {
			l.Say(p.Text)
			progress(p)
		}
		defer func() { l.end(img, err) }()
	}
	job.Entered(StageBuilding)
	img, err = s.makeWithin(ctx, b, plan, job.Progress)
	if err != nil {
		s.log.Warn("image build failed", "ref", req.Ref, "build", plan.Build, "log", plan.Log, "error", err)
		return Image{}, err
	}
	took := time.Since(start)
	s.log.Info("image built", "ref", req.Ref, "digest", img.Digest, "build", plan.Build, "bytes", img.Size(), "took", took)
	job.say("built %.19s in %.1f s, %d MiB", img.Digest, took.Seconds(), img.Size()>>20)
	return img, nil
}

// resolve finds out what the request names now, and the image where there is one already.
func (s *DirStore) resolve(ctx context.Context, b Builder, job Job) (plan Plan, img Image, ok bool, err error) {
	req := job.Request
	looking, cancel := within(ctx, s.limits.Resolve, "look up", req.Ref)
	plan, err = b.Resolve(looking, req, job.Progress)
	err = ended(looking, err)
	cancel()
	if mvm.IsKind(err, mvm.KindUnavailable) {
		if img, ok, lerr := s.lease(ctx, func() (Image, bool) { return s.newest(ctx, req) }); ok || lerr != nil {
			job.say("using the image built before: %v", err)
			s.log.Warn("image may be outdated", "ref", req.Ref, "digest", img.Digest, "error", err)
			return plan, img, ok, lerr
		}
	}
	if err != nil {
		return plan, Image{}, false, fmt.Errorf("look up image %s: %w", req.Ref, err)
	}
	plan.Request = req
	img, ok, err = s.lease(ctx, func() (Image, bool) { return s.lookup(ctx, plan) })
	return plan, img, ok, err
}

// lease finds an image that is there already, and keeps GC from it for long enough that the
// caller can record its digest.
func (s *DirStore) lease(ctx context.Context, find func() (Image, bool)) (Image, bool, error) {
	shared, err := LockShared(ctx, s.path("lock"), nil)
	if err != nil {
		return Image{}, false, err
	}
	img, ok := find()
	if ok {
		err = s.touch(img)
	}
	return img, ok, errors.Join(err, shared.Unlock())
}

// makeWithin is make with the deadline of builds.
func (s *DirStore) makeWithin(ctx context.Context, b Builder, plan Plan, progress func(mvm.Progress)) (Image, error) {
	progress(mvm.Progress{Target: plan.Request.Ref, Text: "building"})
	ctx, cancel := within(ctx, s.limits.Build, "build", plan.Request.Ref)
	defer cancel()
	img, err := s.make(ctx, b, plan, progress)
	return img, ended(ctx, err)
}

// make builds into a folder of its own, checks what came out, and publishes it.
func (s *DirStore) make(ctx context.Context, b Builder, plan Plan, progress func(mvm.Progress)) (_ Image, err error) {
	ref := plan.Request.Ref
	tmp, release, err := s.workspace(ctx)
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp), release()) }()
	dir := filepath.Join(tmp, "image")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return Image{}, err
	}
	guarded, done := s.guard(ctx)
	err = b.Build(guarded, plan, dir, progress)
	if cause := done(); cause != nil {
		err = cause
	}
	if err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", ref, err)
	}
	img, err := load(dir)
	if err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", ref, err)
	}
	if err := checkServices(img); err != nil {
		return Image{}, err
	}
	if err := seal(img); err != nil {
		return Image{}, err
	}
	if err := s.check(ctx, img); err != nil {
		return Image{}, err
	}
	return s.publish(ctx, img, plan)
}

// workspace makes a folder for a build, which GC leaves alone until it is released or this
// process ends.
func (s *DirStore) workspace(ctx context.Context) (dir string, release func() error, err error) {
	shared, err := LockShared(ctx, s.path("lock"), nil)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, shared.Unlock()) }()
	if dir, err = os.MkdirTemp(s.path("tmp"), "build-"); err != nil {
		return "", nil, err
	}
	l, err := holdDir(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, l.Unlock, nil
}

// seal makes the image's files read-only and durable.
func seal(img Image) error {
	for _, f := range append(img.files(), File{Name: ManifestName}) {
		p := filepath.Join(img.Dir, f.Name)
		if err := errors.Join(os.Chmod(p, 0o444), syncFile(p)); err != nil {
			return err
		}
	}
	return errors.Join(sys.SyncDir(img.Dir), os.Chmod(img.Dir, 0o755))
}

// publish gives the folder its name, durably, and records what it came from. An image of the
// same digest that is there and whole stays; a damaged one is replaced. Builds for different
// requests may end with the same digest: they publish it one after the other.
func (s *DirStore) publish(ctx context.Context, img Image, plan Plan) (_ Image, err error) {
	own, err := LockExclusive(ctx, s.path("locks", hash(img.Digest)), nil)
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, own.Unlock()) }()
	shared, err := LockShared(ctx, s.path("lock"), nil)
	if err != nil {
		return Image{}, err
	}
	img, err = s.publishLocked(ctx, img)
	if err == nil {
		err = s.record(plan, img)
	}
	if err == nil {
		err = s.touch(img)
	}
	return img, errors.Join(err, shared.Unlock())
}

func (s *DirStore) publishLocked(ctx context.Context, img Image) (Image, error) {
	final := s.imageDir(img.Digest)
	if old, err := s.Get(img.Digest); err == nil {
		if err = s.check(ctx, old); err == nil {
			return old, nil
		}
		if ctx.Err() != nil {
			return Image{}, err
		}
		s.log.Warn("damaged image is replaced", "digest", img.Digest, "error", err)
	}
	if err := s.discard(final); err != nil {
		return Image{}, err
	}
	if err := sys.Rename(img.Dir, final); err != nil {
		return Image{}, err
	}
	img.Dir = final
	return img, nil
}

// The disk space that builds leave free, and how often that is looked at.
const (
	lowSpace   = 1 << 20
	spareSpace = 64 << 20
	spacePoll  = 100 * time.Millisecond
)

// errNoSpace ends a build that would fill the disk.
var errNoSpace = errors.New("it was stopped before the disk was full")

// guard ends a build's context when the disk is nearly full: others need it too. done says so
// and ends the watching.
func (s *DirStore) guard(ctx context.Context) (guarded context.Context, done func() error) {
	guarded, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(spacePoll)
		defer tick.Stop()
		for {
			if free, err := sys.FreeBytes(s.dir); err == nil && free < s.spare() {
				cancel(errNoSpace)
			}
			select {
			case <-guarded.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return guarded, func() error {
		cause := context.Cause(guarded)
		cancel(nil)
		<-ended
		if errors.Is(cause, errNoSpace) {
			return fmt.Errorf("%w: %w", cause, syscall.ENOSPC)
		}
		return nil
	}
}

// spare is what a build leaves free: less on a small disk.
func (s *DirStore) spare() int64 {
	all, err := sys.DiskBytes(s.dir)
	if err != nil {
		return 0
	}
	return min(spareSpace, all/20)
}

// explain adds what to do when the disk is full, which builders run into in many ways.
func (s *DirStore) explain(ref string, err error) error {
	if err == nil {
		return nil
	}
	free, ferr := sys.FreeBytes(s.dir)
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) && (ferr != nil || free > lowSpace) {
		return err
	}
	return mvm.Errorf(mvm.KindUnavailable, "build image %s: no space left in %s (%d MiB free): %w", ref, s.dir, free>>20, err).
		WithFix("free space there, or move mvm's data to a larger disk with --data-dir")
}
