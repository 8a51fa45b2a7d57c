package fake

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/strictjson"
)

// Knobs are the content of a knob file, with which a test turns the knobs of an
// agent that runs in another process:
//
//	{"fail": {"snapshot.state": "disk full"},
//	 "latency_ms": {"resume": 60000},
//	 "guests": {"": {"never_ready": true}, "i-a3f7b2c1": {"silent": true, "only": ["SleepPrep"]}}}
//
// A failure that is the name of an errno ("ENOSPC") is that errno, as a host that lacks
// something gives it; one that begins with "snapshot: " is a driver.SnapshotError.
//
// A long latency holds the agent in exactly one step, to be killed there.
type Knobs struct {
	Fail      map[Op]string       `json:"fail"`
	LatencyMS map[Op]int          `json:"latency_ms"`
	Guests    map[string]Behavior `json:"guests"`
}

// readKnobs reads the file; one that is not there has no knobs.
func readKnobs(path string) (Knobs, error) {
	var k Knobs
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = strictjson.Unmarshal(b, &k)
	}
	if err == nil {
		err = k.check()
	}
	if err != nil {
		return Knobs{}, mvm.Errorf(mvm.KindInvalid, "read knobs of the fake driver %s: %w", path, err)
	}
	return k, nil
}

// check refuses operations that there are none of: their knobs would do nothing.
func (k Knobs) check() error {
	for _, op := range slices.Concat(slices.Collect(maps.Keys(k.Fail)), slices.Collect(maps.Keys(k.LatencyMS))) {
		if !slices.Contains(Ops(), op) {
			return fmt.Errorf("there is no operation %q", op)
		}
	}
	return nil
}

// Follow has the host's guests behave as the knob file says and returns the
// Options that do so for a Driver. The file is read anew at every operation; while
// it is damaged every operation fails.
func Follow(h *Host, path string) Options {
	h.mu.Lock()
	h.knobs = path
	h.mu.Unlock()
	return Options{
		Fail: func(op Op, _ string) error {
			k, err := readKnobs(path)
			if err != nil {
				return err
			}
			if text, ok := k.Fail[op]; ok {
				return failure(text)
			}
			return nil
		},
		Latency: func(op Op, _ string) time.Duration {
			k, _ := readKnobs(path) // Fail reports a damaged file
			return time.Duration(k.LatencyMS[op]) * time.Millisecond
		},
	}
}

// failure is the error that a knob's text stands for.
func failure(text string) error {
	if what, ok := strings.CutPrefix(text, "snapshot: "); ok {
		return &driver.SnapshotError{Err: mvm.Errorf(mvm.KindInvalid, "%s", what)}
	}
	for name, errno := range map[string]syscall.Errno{"ENOSPC": syscall.ENOSPC, "EDQUOT": syscall.EDQUOT, "EMFILE": syscall.EMFILE,
		"ENFILE": syscall.ENFILE, "ENOMEM": syscall.ENOMEM, "EAGAIN": syscall.EAGAIN, "EROFS": syscall.EROFS, "EIO": syscall.EIO} {
		if text == name {
			return errno
		}
	}
	return errors.New(text)
}

// knobBehavior is the behaviour that the knob file has for the instance.
func knobBehavior(path, id string) (Behavior, bool) {
	k, err := readKnobs(path)
	if err != nil {
		return Behavior{}, false
	}
	b, ok := k.Guests[id]
	if !ok {
		b, ok = k.Guests[""]
	}
	return b, ok
}
