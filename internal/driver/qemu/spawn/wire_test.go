package spawn_test

import (
	"context"
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"mvm"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/testenv"
)

// taken is a Host that keeps what it is asked to start.
type taken struct {
	spawn.Host
	got []spawn.Launch
}

func (h *taken) Launch(_ context.Context, l spawn.Launch) (vmproc.Process, []string, error) {
	h.got = append(h.got, l)
	return nil, nil, nil
}

// A launcher that is asked in the words of all kinds of VMM starts the very Launch: a boot
// hands over more files than a wake, and each gets to the place that is its own.
func TestLaunchArrivesWhole(t *testing.T) {
	testenv.NeedRoot(t)
	w := newFiles(t)
	for _, c := range []struct{ kernel, initrd, tap bool }{{}, {kernel: true}, {kernel: true, initrd: true}, {tap: true}, {true, true, true}} {
		l := w.Launch
		l.GID, l.Cgroup, l.TSCkHz, l.Cmdline, l.MAC, l.Owner = user+1, "mvm-i-00000041", 7, "quiet", "02:fc:00:00:00:01", vmproc.Owner{UID: 3, GID: 4}
		l.NoArchCaps = true
		for name, place := range map[string]**os.File{"kernel": &l.Files.Kernel, "initrd": &l.Files.Initrd, "tap": &l.Files.TAP} {
			if name == "kernel" && c.kernel || name == "initrd" && c.initrd || name == "tap" && c.tap {
				*place = w.file(name, os.O_RDWR)
			}
		}
		var h taken
		_, _, err := spawn.Over(spawn.Launcher(&h)).Launch(t.Context(), l)
		must(t, err)
		if len(h.got) != 1 || !reflect.DeepEqual(h.got[0], l) {
			t.Errorf("with %+v: started\n%+v, want\n%+v", c, h.got, l)
		}
	}
	w.Files.QMP = nil
	var h taken
	if _, _, err := spawn.Over(spawn.Launcher(&h)).Launch(t.Context(), w.Launch); !mvm.IsKind(err, mvm.KindInvalid) || len(h.got) > 0 {
		t.Errorf("without a socket: %v, started %v", err, h.got)
	}
}

// A spec that does not fit the files, or is none, starts nothing.
func TestSpecsOfOthersAreRefused(t *testing.T) {
	files := func(n int) (all []*os.File) {
		for range n {
			all = append(all, os.Stdin)
		}
		return all
	}
	for _, c := range []struct {
		spec  string
		files int
	}{
		{``, 6}, {`null x`, 6}, {`{"path":"/etc/shadow"}`, 6}, {`{}{}`, 6}, {`[]`, 6}, {`{"vcpus":"1"}`, 6},
		{`{}`, 0}, {`{}`, 5}, {`{}`, 7}, {`{"kernel":true}`, 6}, {`{"disks":[{"serial":"a"}]}`, 6},
		{`{"disks":[{},{},{},{},{},{},{},{},{}]}`, 15},
	} {
		var h taken
		_, _, err := spawn.Launcher(&h).Launch(t.Context(), vmproc.Launch{Spec: json.RawMessage(c.spec), Files: files(c.files)})
		if !mvm.IsKind(err, mvm.KindInvalid) || len(h.got) > 0 {
			t.Errorf("%s with %d files: %v, started %v", c.spec, c.files, err, h.got)
		}
	}
}
