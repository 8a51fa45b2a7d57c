// Package drivertest is the suite that every driver passes. An adapter's test is a
// few lines:
//
//	drivertest.Run(t, func(t *testing.T) drivertest.Harness { … })
//
// Cases are grouped so that few guests boot: the ones of one life share a boot.
package drivertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/testenv"
)

// Harness is what the suite needs of a driver.
type Harness struct {
	Driver driver.Driver
	// Again returns another Driver on the same host, as a restarted agent has it.
	Again func() driver.Driver
	// Root is the parent of the RunDirs, as Sweep takes it.
	Root string
	// Spec returns a complete Spec for a new instance with its files and folders;
	// RunDir is Root/<id>. The guest has port 52 and the commands echo, cat and tee.
	Spec func(t testing.TB, id string) driver.Spec
	// Patience is how long a guest's boot and answers may take at the worst.
	Patience time.Duration
	// KillOutside ends the VMM behind the driver's back, as kill -9 does.
	KillOutside func(t testing.TB, v driver.VMM, spec driver.Spec)
	// Left lists, in words, what the driver still holds for the Spec, beside the
	// processes, sockets and files that the suite finds itself. May be nil.
	Left func(spec driver.Spec) []string
	// Ask has the guest ask its host something on port 53. Nil: the guest is mvm-guest
	// in an image with wget, and asks as a gateway.
	Ask func(t testing.TB, v driver.VMM, spec driver.Spec)
	// Plain: the driver does not seal snapshots (driver.Features).
	Plain bool
	// Scratch are names in the instance's folder of files that no snapshot is kept in.
	Scratch []string
	// Ready makes a snapshot of the instance ready for its next Restore. Nil: the driver does not
	// restore what is ready.
	Ready func(ctx context.Context, spec driver.Spec, snap driver.Snapshot) (*driver.Ready, error)
	// VSock: the driver serves <RunDir>/v.sock.
	VSock bool
	// Faults are the driver's seams. May be empty.
	Faults []Fault
}

// Fault makes one named operation within a call of the contract fail.
type Fault struct {
	Call string // "Start", "Restore", "Pause", "Resume", "Snapshot", "Kill", "Destroy", "Recover"
	Name string
	// Arm makes it fail with err from now on, until disarm is called.
	Arm func(err error) (disarm func())
}

// Run runs the suite. The harness is made once per group of cases.
func Run(t *testing.T, make func(t *testing.T) Harness) {
	for _, g := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"Nothing", testNothing},
		{"BadSpec", testBadSpec},
		{"Opened", testOpened},
		{"CanceledStart", testCanceledStart},
		{"Life", testLife},
		{"KilledOutside", testKilledOutside},
		{"KillWhileDialing", testKillWhileDialing},
		{"Sweep", testSweep},
		{"Survey", testSurvey},
		{"Faults", testFaults},
	} {
		t.Run(g.name, func(t *testing.T) { g.run(t, &suite{Harness: make(t)}) })
	}
}

// suite is a Harness with what the cases share.
type suite struct {
	Harness
	ids int
}

// spec returns a Spec of a new instance, and makes sure that the test ends it and
// leaves nothing.
func (s *suite) spec(t *testing.T) driver.Spec {
	t.Helper()
	s.ids++
	spec := s.Spec(t, fmt.Sprintf("i-%08x", 0xd0000000+s.ids))
	s.snapshot(t, spec) // makes its folders
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.Patience) // the test's own has ended
		defer cancel()
		if err := s.Driver.Destroy(ctx, spec); err != nil {
			t.Errorf("destroy at the end: %v", err)
		}
	})
	return spec
}

// start starts the instance or fails the test.
func (s *suite) start(t *testing.T, spec driver.Spec) driver.VMM {
	t.Helper()
	v, err := s.Driver.Start(t.Context(), spec)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	return v
}

// wantKind fails the test unless the error has one of the kinds.
func wantKind(t *testing.T, what string, err error, kinds ...mvm.Kind) {
	t.Helper()
	if !slices.Contains(kinds, mvm.KindOf(err)) {
		t.Errorf("%s: error %v of kind %q, want kind %v", what, err, mvm.KindOf(err), kinds)
	}
}

// gone fails the test unless the VMM is gone soon.
func (s *suite) gone(t *testing.T, v driver.VMM) {
	t.Helper()
	select {
	case <-v.Done():
	case <-time.After(s.Patience):
		t.Fatal("the VMM is not gone")
	}
}

// files lists what is in the instance's folders. The console log may stay.
func files(spec driver.Spec) []string {
	var names []string
	for _, dir := range []string{spec.Dir, spec.RunDir} {
		entries, _ := os.ReadDir(dir) // a folder that is gone has nothing
		for _, e := range entries {
			if p := filepath.Join(dir, e.Name()); p != spec.Console {
				names = append(names, p)
			}
		}
	}
	return names
}

// nothing fails the test when more than the files is left of the instance.
func (s *suite) nothing(t *testing.T, spec driver.Spec, before []string) {
	t.Helper()
	testenv.Eventually(t, s.Patience, func() error {
		left := append(testenv.Left(spec.RunDir), testenv.Left(spec.Dir)...)
		for _, f := range files(spec) {
			if !slices.Contains(before, f) {
				left = append(left, "file "+f)
			}
		}
		if s.Left != nil {
			left = append(left, s.Left(spec)...)
		}
		if len(left) > 0 {
			return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
		}
		return nil
	})
}
