package drivertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
)

// testKilledOutside: somebody else kills the VMM.
func testKilledOutside(t *testing.T, s *suite) {
	spec := s.spec(t)
	before := files(spec)
	v := s.start(t, spec)
	s.KillOutside(t, v, spec)
	for v.Pause(t.Context()) == nil { // until the kernel has got to it
	}
	select {
	case <-v.Done():
	default:
		t.Error("a call failed because the VMM ended, and Done is not closed")
	}
	s.gone(t, v)
	if e := v.Exit(); e.Guest || e.Signal != 9 && e.Detail == "" {
		t.Errorf("exit %+v, want signal 9 or words", e)
	}
	wantKind(t, "pause", v.Pause(t.Context()), mvm.KindState, mvm.KindUnavailable)
	_, err := s.Driver.Recover(t.Context(), spec)
	wantKind(t, "recover", err, mvm.KindNotFound)
	if err := s.Driver.Destroy(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	s.nothing(t, spec, append(before, spec.Memory))

	t.Run("WithoutAgent", func(t *testing.T) {
		v := s.start(t, spec)
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		s.KillOutside(t, v, spec)
		d := s.Again()
		testenv.Eventually(t, s.Patience, func() error { // it dies when the kernel gets to it
			if _, err := d.Recover(t.Context(), spec); !mvm.IsKind(err, mvm.KindNotFound) {
				return fmt.Errorf("recover gave kind %q, want %q", mvm.KindOf(err), mvm.KindNotFound)
			}
			return nil
		})
		v = s.start(t, spec) // over what the dead one left
		if err := v.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// testKillWhileDialing: Kill may come at any moment, and ends a Dial.
func testKillWhileDialing(t *testing.T, s *suite) {
	spec := s.spec(t)
	v := s.start(t, spec)
	if err := v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), s.Patience)
	defer cancel()
	dialed := make(chan error, 1)
	go func() {
		c, err := v.Dial(ctx, guestproto.GuestPort)
		if err == nil {
			_, err = guestproto.Call(ctx, c, guestproto.Request{Ping: true})
			_ = c.Close()
		}
		dialed <- err
	}()
	if err := v.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := <-dialed; err == nil {
		t.Error("a paused guest that was killed answered")
	}
	if ctx.Err() != nil {
		t.Errorf("the dial went on for %v after the kill, until its own deadline", time.Since(began))
	}
}

// testSweep ends what nobody owns, and only that.
func testSweep(t *testing.T, s *suite) {
	mine, stray := s.spec(t), s.spec(t)
	before := files(stray)
	v, lost := s.start(t, mine), s.start(t, stray)
	if err := lost.Close(); err != nil {
		t.Fatal(err)
	}
	d := s.Again()
	var asked []string
	ended, err := d.Sweep(t.Context(), s.Root, func(id string) bool {
		asked = append(asked, id)
		return id == mine.ID
	})
	if err != nil || !slices.Equal(ended, []string{stray.ID}) {
		t.Errorf("sweep ended %v, %v, want %s; it asked for %v", ended, err, stray.ID, asked)
	}
	_, err = d.Recover(t.Context(), stray)
	wantKind(t, "recover of the stray", err, mvm.KindNotFound)
	s.nothing(t, stray, append(before, stray.Memory))
	select {
	case <-v.Done():
		t.Error("sweep ended a VMM that is owned")
	default:
	}
	if _, err := v.Paused(t.Context()); err != nil {
		t.Errorf("the VMM that is owned: %v", err)
	}
	ended, err = d.Sweep(t.Context(), s.Root, func(id string) bool { return id == mine.ID })
	if err != nil || len(ended) > 0 {
		t.Errorf("second sweep ended %v, %v", ended, err)
	}
	if err := v.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// has returns the faults of a call.
func (s *suite) has(call string) []Fault {
	return slices.DeleteFunc(slices.Clone(s.Faults), func(f Fault) bool { return f.Call != call })
}

// errOnPurpose is what an operation fails with where it does not matter.
var errOnPurpose = errors.New("made to fail")

// failing runs fn with each fault of the call.
func (s *suite) failing(t *testing.T, call string, fn func(t *testing.T)) {
	t.Helper()
	for _, f := range s.has(call) {
		t.Run(call+"/"+f.Name, func(t *testing.T) {
			disarm := f.Arm(errOnPurpose)
			defer disarm()
			fn(t)
		})
	}
}

// hostFaults are what a host lacks when it fails a Restore.
func hostFaults() []error {
	return []error{errOnPurpose, syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN,
		syscall.EROFS, syscall.EIO, &os.PathError{Op: "fork/exec", Path: "/usr/bin/vmm", Err: syscall.ENOENT}}
}

// testFaults fails every named operation in turn: Start and Restore leave nothing,
// the others leave the VMM as it was.
func testFaults(t *testing.T, s *suite) {
	if len(s.Faults) == 0 {
		t.Skip("this driver names no operations that can be made to fail")
	}
	spec := s.spec(t)
	before := files(spec)
	s.failing(t, "Start", func(t *testing.T) {
		if _, err := s.Driver.Start(t.Context(), spec); err == nil {
			t.Error("start succeeded")
		}
		s.nothing(t, spec, before)
		_, err := s.Driver.Recover(t.Context(), spec)
		wantKind(t, "recover", err, mvm.KindNotFound)
	})
	v := s.start(t, spec)
	s.awake(t, v)
	s.remember(t, v, "before the faults")
	s.faultsOfVMM(t, v, spec)
	s.faultsOfRestore(t, spec)
}

func (s *suite) faultsOfVMM(t *testing.T, v driver.VMM, spec driver.Spec) {
	snap := s.snapshot(t, spec)
	isPaused := func(t *testing.T, want bool) {
		t.Helper()
		if got, err := v.Paused(t.Context()); err != nil || got != want {
			t.Errorf("paused %v, %v, want %v", got, err, want)
		}
	}
	fails := func(call string, paused bool, fn func(*testing.T) error) {
		s.failing(t, call, func(t *testing.T) {
			if fn(t) == nil {
				t.Error(call, "succeeded")
			}
			isPaused(t, paused)
		})
	}
	fails("Pause", false, func(t *testing.T) error { return v.Pause(t.Context()) })
	s.remembers(t, v, "before the faults")
	if err := v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	fails("Resume", true, func(t *testing.T) error { return v.Resume(t.Context()) })
	fails("Snapshot", true, func(t *testing.T) error {
		err := v.Snapshot(t.Context(), snap)
		if left := s.files(t, spec, snap); len(left) > 0 {
			t.Errorf("a snapshot that failed left %v", left)
		}
		return err
	})
	fails("Kill", true, func(t *testing.T) error { return v.Kill(t.Context()) })
	for _, f := range s.has("Recover") {
		t.Run("Recover/"+f.Name, func(t *testing.T) {
			for _, fault := range hostFaults() {
				s.keepsVMM(t, spec, f, fault)
			}
			isPaused(t, true)
		})
	}
	if err := v.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.remembers(t, v, "before the faults")
	if err := v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := v.Snapshot(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	if err := v.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// keepsSnapshot: a Restore that fails for a fault of the host says so, and does not
// say that anything is wrong with the snapshot.
func (s *suite) keepsSnapshot(t *testing.T, spec driver.Spec, f Fault, fault error) {
	t.Helper()
	disarm := f.Arm(fault)
	defer disarm()
	_, err := s.Driver.Restore(t.Context(), spec, s.snapshot(t, spec))
	if !errors.Is(err, fault) {
		t.Errorf("restore: %v, want %v in the chain", err, fault)
	}
	if driver.BadSnapshot(err) {
		t.Errorf("restore: %v counts as an error of the snapshot", err)
	}
}

// keepsVMM: a Recover that fails for a fault of the host does not say that there is no VMM.
func (s *suite) keepsVMM(t *testing.T, spec driver.Spec, f Fault, fault error) {
	t.Helper()
	disarm := f.Arm(fault)
	defer disarm()
	_, err := s.Driver.Recover(t.Context(), spec)
	if !errors.Is(err, fault) || mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("recover: %v, want %v in the chain, and not that there is no VMM", err, fault)
	}
}

func (s *suite) faultsOfRestore(t *testing.T, spec driver.Spec) {
	before := files(spec)
	for _, f := range s.has("Restore") {
		t.Run("Restore/"+f.Name, func(t *testing.T) {
			for _, fault := range hostFaults() {
				s.keepsSnapshot(t, spec, f, fault)
			}
			s.nothing(t, spec, before)
		})
	}
	v, err := s.Driver.Restore(t.Context(), spec, s.snapshot(t, spec))
	if err != nil {
		t.Fatalf("restore after restores that failed: %v", err)
	}
	if err := v.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.remembers(t, v, "before the faults")
	s.failing(t, "Destroy", func(t *testing.T) {
		if err := s.Driver.Destroy(t.Context(), spec); err == nil {
			t.Error("destroy succeeded")
		}
	})
	if err := s.Driver.Destroy(t.Context(), spec); err != nil {
		t.Errorf("destroy after one that failed: %v", err)
	}
	s.nothing(t, spec, append(before, spec.Memory))
}

// testSurvey: a look at the host tells of instances that have nothing on it, and of no
// other that they have nothing.
func testSurvey(t *testing.T, s *suite) {
	one := s.spec(t)
	d := s.Driver
	want := func(when string, spec driver.Spec, want bool) {
		t.Helper()
		nothing, err := d.Survey(t.Context())
		if err != nil {
			t.Fatalf("survey %s: %v", when, err)
		}
		if got := nothing(spec); got != want {
			t.Errorf("%s: nothing of the instance is there: %v, want %v", when, got, want)
		}
	}
	want("before any start", one, true)
	v := s.start(t, one)
	want("while its VMM runs", one, false)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	d = s.Again()
	want("while its VMM runs and nobody holds it", one, false)
	if err := d.Destroy(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	want("after its VMM was ended", one, true)
	if err := os.RemoveAll(one.RunDir); err != nil {
		t.Fatal(err)
	}
	want("without a run dir", one, true)
	_, err := d.Recover(t.Context(), one)
	wantKind(t, "recover after a survey found nothing", err, mvm.KindNotFound)
}
