package qemu

import (
	"context"
	"errors"
	"strings"

	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/rundir"
)

// exec has QEMU started, and makes it findable. Its vCPUs do not run yet.
func (l *launcher) exec(ctx context.Context, what spawn.Launch) error {
	if err := l.d.seam("start.exec"); err != nil {
		return err
	}
	out, log, err := rundir.MakeLog(l.spec.RunDir)
	if err != nil {
		return err
	}
	defer out.Close()
	l.log = log
	l.undo.Add(func() error { log.Close(); return nil })
	s := l.spec
	what.Files, what.Files.Log = l.files, out
	if l.proc, l.rec.Cgroups, err = l.d.host.Launch(ctx, what); err != nil {
		return explain(err, lastWords(log))
	}
	l.undo.Add(func() error {
		ctx := context.WithoutCancel(ctx)
		_ = l.proc.Kill(ctx)
		_, _, _, _ = l.proc.Wait()
		return errors.Join(l.proc.Close(), l.d.host.Leave(ctx, rundir.NameOf(s), s.Cgroup, l.rec.Cgroups))
	})
	return l.record()
}

// record writes vmm.json.
func (l *launcher) record() error {
	if err := l.d.seam("start.record"); err != nil {
		return err
	}
	rec, err := rundir.RecordOf(l.spec.ID, l.proc)
	if err != nil {
		return err
	}
	rec.Driver, rec.Cgroups, rec.TAP, rec.Memory = l.d.keep.Driver, l.rec.Cgroups, l.tap, l.spec.Memory
	if l.base != nil {
		if rec.Own, err = l.base.own(); err != nil {
			return err
		}
	}
	l.rec = rec
	return rec.Write(l.spec.RunDir)
}

// lastWords are the last lines of what QEMU itself said.
func lastWords(log *rundir.Log) string {
	return strings.TrimSpace(strings.TrimPrefix(log.Tail(), zeroWords))
}

// zeroWords are QEMU's about /dev/zero as the guest's memory. It goes on.
const zeroWords = "ftruncate: Invalid argument"
