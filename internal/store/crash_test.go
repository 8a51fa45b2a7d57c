package store_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"mvm"
	"mvm/internal/store"
)

// writerEnv makes the test binary a writer on the file that it names.
const writerEnv = "MVM_STORE_TEST_WRITER"

// writeUntilKilled makes, changes and removes instances, an event for each, and
// prints the number of every event that is durable.
func writeUntilKilled(path string) int {
	s, err := store.Open(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		var e mvm.Event
		err := s.Update(func(tx *store.Tx) (err error) {
			if e, err = tx.AppendEvent(mvm.Event{Action: mvm.InstanceCreated, Tenant: "acme"}); err != nil {
				return err
			}
			v := instance("acme", int(e.Seq), fmt.Sprintf("user-%d", e.Seq))
			if v.UID, err = tx.AllocUID(); err != nil {
				return err
			}
			if e.Seq > 20 {
				err = tx.DeleteInstance(instance("acme", int(e.Seq)-20, "").ID)
			}
			return errors.Join(err, tx.PutInstance(v))
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(e.Seq)
	}
}

func TestKillNineLosesNothingThatWasDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Tx) error { return addTenant(tx, "acme") })
	s.Close()
	for round := range 8 {
		said := runWriterAndKill(t, path, 5+7*round)
		checkAfterKill(t, path, said)
	}
}

// runWriterAndKill kills the writer somewhere after it said n numbers and returns
// the last one.
func runWriterAndKill(t *testing.T, path string, n int) uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dog := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer dog.Stop()
	var last uint64
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		if last, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			t.Error(err)
		}
		if i == n {
			cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); err == nil || last == 0 {
		t.Fatalf("the writer ended by itself, after %d", last)
	}
	return last
}

func checkAfterKill(t *testing.T, path string, said uint64) {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatalf("open after a kill: %v", err)
	}
	defer s.Close()
	view(t, s, func(tx *store.Tx) error {
		last, err := tx.TailEvents(mvm.EventFilter{}, 1, 0)
		if err != nil || len(last) != 1 || last[0].Seq < said {
			t.Fatalf("got last event %v %v, want at least %d", last, err, said)
		}
		instances, err := tx.Instances("acme", "workers")
		if want := min(int(last[0].Seq), 20); len(instances) != want {
			t.Errorf("got %d instances after event %d, want %d", len(instances), last[0].Seq, want)
		}
		return errors.Join(err, tx.Check())
	})
}
