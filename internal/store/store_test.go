package store_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/store"
)

func TestMain(m *testing.M) {
	if os.Getenv(writerEnv) != "" {
		os.Exit(writeUntilKilled(os.Getenv(writerEnv)))
	}
	goleak.VerifyTestMain(m)
}

func openStore(t testing.TB, opts store.Options) *store.Store {
	t.Helper()
	s, err := store.OpenWith(filepath.Join(t.TempDir(), "state.db"), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func update(t testing.TB, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Update(fn); err != nil {
		t.Fatal(err)
	}
}

func view(t testing.TB, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.View(fn); err != nil {
		t.Fatal(err)
	}
}

// addTenant makes the tenant with a pool "workers".
func addTenant(tx *store.Tx, id string) error {
	n, err := tx.NextNetID(id, time.Now(), nil)
	if err != nil {
		return err
	}
	err = tx.PutTenant(mvm.Tenant{ID: id, NetID: n, Subnet: mvm.DefaultSubnet(n), Quota: mvm.DefaultQuota()})
	return errors.Join(err, tx.PutPool(mvm.Pool{Tenant: id, Spec: mvm.PoolSpec{ID: "workers", Role: mvm.RoleWorker}}))
}

func wantKind(t *testing.T, err error, want mvm.Kind) {
	t.Helper()
	if got := mvm.KindOf(err); got != want {
		t.Errorf("got error %v of kind %q, want kind %q", err, got, want)
	}
}

func TestStateSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "state.db")
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 2, 11, 10, 0, 0, 0, time.UTC)
	want := mvm.Instance{ID: "i-00000001", Tenant: "acme", Pool: "workers", Key: "ann", Role: mvm.RoleWorker,
		State: mvm.StateSleeping, Offset: 3, IP: netip.MustParseAddr("10.240.0.3"), MAC: "02:fc:00:00:00:03",
		Res: mvm.DefaultResources(), Created: at, Changed: at, UID: 1234,
		Op:       &mvm.Op{Kind: mvm.OpWake, Step: "restore", By: mvm.ParseAsker("gateway:i-0000000a"), Started: at},
		Last:     &mvm.Transition{Op: mvm.OpSleep, From: mvm.StateRunning, To: mvm.StateSleeping, By: mvm.ParseAsker("policy"), Started: at, Took: time.Second},
		Snapshot: &mvm.SnapshotRef{ID: "s", MemMiB: 1024, Taken: at}}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(addTenant(tx, "acme"), tx.PutInstance(want), tx.PutMeta("node_id", "node-1"),
			tx.PutSecrets("acme", []byte{0, 1, 2}))
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	view(t, s, func(tx *store.Tx) error {
		got, err := tx.InstanceByKey("acme", "workers", "ann")
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("instance (-want +got):\n%s", diff)
		}
		if node, ok, err := tx.Meta("node_id"); node != "node-1" || !ok || err != nil {
			t.Errorf("got node_id %q %v %v, want node-1", node, ok, err)
		}
		if got := tx.Secrets("acme"); !cmp.Equal(got, []byte{0, 1, 2}) {
			t.Errorf("got secrets %v", got)
		}
		return errors.Join(err, tx.Check())
	})
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v %v, want 0600", st.Mode(), err)
	}
}

func TestOnlyOneAgentHasTheFile(t *testing.T) {
	s := openStore(t, store.Options{})
	_, err := store.OpenWith(s.Path(), store.Options{LockTimeout: 20 * time.Millisecond})
	wantKind(t, err, mvm.KindState)
	if err == nil || !strings.Contains(err.Error(), "another agent uses it") {
		t.Errorf("got %v, want it to say that another agent has it", err)
	}
}

func TestOpenRefusesWhatIsNoStateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	content := []byte(strings.Repeat("this is something else\n", 1000))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := store.Open(path)
	wantKind(t, err, mvm.KindInternal)
	if got, _ := os.ReadFile(path); string(got) != string(content) {
		t.Error("the file was changed")
	}
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	s := openStore(t, store.Options{})
	cause := errors.New("no")
	err := s.Update(func(tx *store.Tx) error {
		if err := addTenant(tx, "acme"); err != nil {
			return err
		}
		if _, err := tx.AppendEvent(mvm.Event{Action: mvm.TenantCreated}); err != nil {
			return err
		}
		return cause
	})
	if err != cause { //nolint:errorlint // it must be the very same
		t.Errorf("got %v, want the function's error as it is", err)
	}
	view(t, s, func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		events, err2 := eventsOf(tx, 0, mvm.EventFilter{}, 0)
		if len(tenants) != 0 || len(events) != 0 {
			t.Errorf("got %d tenants and %d events after an Update that failed, want none", len(tenants), len(events))
		}
		return errors.Join(err, err2)
	})
}

func TestSeamsFailExactlyOneOperation(t *testing.T) {
	for _, c := range []struct {
		op      string
		durable bool
	}{{store.SeamUpdate, false}, {store.SeamCommit, false}, {store.SeamCommitted, true}} {
		t.Run(c.op, func(t *testing.T) {
			armed := false
			s := openStore(t, store.Options{Seam: func(op string) error {
				if armed && op == c.op {
					armed = false
					return errors.New("made to fail")
				}
				return nil
			}})
			armed = true
			err := s.Update(func(tx *store.Tx) error { return addTenant(tx, "acme") })
			if err == nil || armed {
				t.Fatalf("got %v, want the seam's error", err)
			}
			view(t, s, func(tx *store.Tx) error {
				if _, err := tx.Tenant("acme"); (err == nil) != c.durable {
					t.Errorf("got %v, want durable %v", err, c.durable)
				}
				return nil
			})
			update(t, s, func(tx *store.Tx) error { return addTenant(tx, "other") })
		})
	}
}

func TestClosedStoreSaysSo(t *testing.T) {
	s := openStore(t, store.Options{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	none := func(*store.Tx) error { return nil }
	wantKind(t, s.View(none), mvm.KindUnavailable)
	wantKind(t, s.Update(none), mvm.KindUnavailable)
}

func TestViewCannotWrite(t *testing.T) {
	s := openStore(t, store.Options{})
	err := s.View(func(tx *store.Tx) error { return tx.PutMeta("node_id", "x") })
	wantKind(t, err, mvm.KindInternal)
}
