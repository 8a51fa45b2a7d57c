package live

import (
	"context"
	"errors"
	"sync"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

// Survey notes for which instances the driver has nothing on the host: most of those that
// sleep. One look at the host spares each of them several.
func (v *VMMs) Survey(ctx context.Context, instances []mvm.Instance) {
	nothing, err := v.opt.Driver.Survey(ctx)
	if err != nil { // then each is looked for by itself
		v.opt.Log.Warn("survey VMMs", "error", err)
		return
	}
	for _, i := range instances {
		if nothing(v.baseSpec(i)) {
			v.absent.Store(i.ID, true)
		}
	}
}

// Surveyed says that all instances are taken up: what the survey found counts no longer.
func (v *VMMs) Surveyed() { v.absent.Clear() }

// Sweep ends the VMMs that nobody owns, and says of which instances they were.
func (v *VMMs) Sweep(ctx context.Context, owned func(id string) bool) ([]string, error) {
	return v.opt.Driver.Sweep(ctx, v.opt.Folders.RunRoot(), owned)
}

// TakeUp takes up the instance's VMM if one runs. That needs no image: a VMM runs
// on where its image is lost. With an error the VMM is left as it is, to be taken up
// later; one that does not answer however often it is asked is ended, for its guest
// serves nobody.
func (v *VMMs) TakeUp(ctx context.Context, i mvm.Instance) (alive, paused bool, err error) {
	if _, ok := v.absent.Load(i.ID); ok {
		return false, false, nil
	}
	spec, err := v.spec(i)
	if err != nil {
		v.opt.Log.Warn("image of an instance is missing", "instance", i.ID, "error", err)
		spec = v.baseSpec(i)
	}
	vmm, paused, err := v.recoverVMM(ctx, spec)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return false, false, nil
	}
	if err != nil && v.silent.keeps(i.ID, err) {
		return false, false, mvm.Errorf(mvm.KindUnavailable, "recover VMM: %w", err).WithFix("%s", sys.FaultFix(err))
	}
	v.silent.ended(i.ID)
	if err != nil {
		v.opt.Log.Error("vmm can't be taken up and is ended", "instance", i.ID, "error", err)
		return false, false, v.opt.Driver.Destroy(ctx, v.baseSpec(i))
	}
	host, err := v.opt.Ingress.Listen(i)
	if err != nil {
		return false, false, errors.Join(err, vmm.Close())
	}
	v.adopt(i, vmm, host, mvm.Limits{})
	v.oweLimits(i) // an older mvm, or an agent that was cut off, may have left others
	if !paused {
		v.Of(i.ID).Follow(logsDelay)
	}
	return true, paused, nil
}

func (v *VMMs) recoverVMM(ctx context.Context, spec driver.Spec) (vmm driver.VMM, paused bool, err error) {
	if vmm, err = v.opt.Driver.Recover(ctx, spec); err != nil {
		return nil, false, err
	}
	if paused, err = vmm.Paused(ctx); err != nil {
		return nil, false, errors.Join(err, vmm.Close())
	}
	return vmm, paused, nil
}

// silentTries is how often a VMM that does not answer is asked before it is ended. A host
// may be slow, and each try takes seconds.
const silentTries = 3

// silentVMMs counts the tries to take up VMMs that did not answer, by instance.
type silentVMMs struct {
	mu sync.Mutex
	by map[string]int
}

// keeps reports whether a VMM that could not be taken up is tried again: where the host
// lacks something for as long as that lasts, where the VMM does not answer a few times.
func (s *silentVMMs) keeps(id string, err error) bool {
	if _, lacks := sys.Fault(err); lacks {
		return true
	}
	if !mvm.IsKind(err, mvm.KindUnavailable) && !mvm.IsKind(err, mvm.KindTimeout) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[string]int{}
	}
	s.by[id]++
	return s.by[id] < silentTries
}

// ended forgets the tries.
func (s *silentVMMs) ended(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, id)
}
