package store_test

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/store"
)

func instance(tenant string, n int, key string) mvm.Instance {
	return mvm.Instance{ID: fmt.Sprintf("i-%08x", n), Tenant: tenant, Pool: "workers", Key: key, State: mvm.StateReady,
		Offset: mvm.FirstInstanceOffset + n}
}

func ids(instances []mvm.Instance) []string {
	var out []string
	for _, i := range instances {
		out = append(out, i.ID)
	}
	return out
}

func TestInstancesByTenantAndPool(t *testing.T) {
	s := openStore(t, store.Options{})
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(addTenant(tx, "a"), addTenant(tx, "a-b"),
			tx.PutPool(mvm.Pool{Tenant: "a", Spec: mvm.PoolSpec{ID: "workers-2"}}),
			tx.PutInstance(instance("a", 2, "")), tx.PutInstance(instance("a", 1, "")),
			tx.PutInstance(instance("a-b", 3, "")),
			tx.PutInstance(mvm.Instance{ID: "i-00000004", Tenant: "a", Pool: "workers-2"}))
	})
	for _, c := range []struct {
		tenant, pool string
		want         []string
	}{
		{"a", "workers", []string{"i-00000001", "i-00000002"}},
		{"a", "", []string{"i-00000004", "i-00000001", "i-00000002"}},
		{"a-b", "", []string{"i-00000003"}},
		{"", "", []string{"i-00000003", "i-00000004", "i-00000001", "i-00000002"}},
		{"a", "none", nil},
	} {
		view(t, s, func(tx *store.Tx) error {
			got, err := tx.Instances(c.tenant, c.pool)
			if diff := cmp.Diff(c.want, ids(got)); diff != "" {
				t.Errorf("Instances(%q, %q) (-want +got):\n%s", c.tenant, c.pool, diff)
			}
			return err
		})
	}
}

func TestInstanceIndexesFollow(t *testing.T) {
	s := openStore(t, store.Options{})
	v := instance("acme", 1, "ann")
	v.UID = 500
	update(t, s, func(tx *store.Tx) error { return errors.Join(addTenant(tx, "acme"), tx.PutInstance(v)) })

	other := instance("acme", 2, "ann")
	wantKind(t, s.Update(func(tx *store.Tx) error { return tx.PutInstance(other) }), mvm.KindExists)
	other.Key, other.UID = "", 500
	wantKind(t, s.Update(func(tx *store.Tx) error { return tx.PutInstance(other) }), mvm.KindExists)
	other.UID, other.Key = 0, "no/key"
	wantKind(t, s.Update(func(tx *store.Tx) error { return tx.PutInstance(other) }), mvm.KindInvalid)

	v.Key, v.UID = "bob", 501
	update(t, s, func(tx *store.Tx) error { return errors.Join(tx.PutInstance(v), tx.Check()) })
	view(t, s, func(tx *store.Tx) error {
		_, err := tx.InstanceByKey("acme", "workers", "ann")
		wantKind(t, err, mvm.KindNotFound)
		_, err = tx.InstanceByKey("acme", "workers", "bob")
		return errors.Join(err, tx.Check())
	})
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.DeleteInstance(v.ID), tx.DeleteInstance(v.ID), tx.Check())
	})
	other.Key, other.UID = "bob", 501
	update(t, s, func(tx *store.Tx) error { return errors.Join(tx.PutInstance(other), tx.Check()) })
}

func TestOwnersMustBeThere(t *testing.T) {
	s := openStore(t, store.Options{})
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(addTenant(tx, "acme"), addTenant(tx, "other"), tx.PutInstance(instance("acme", 1, "")),
			tx.PutSecrets("acme", []byte("sealed")))
	})
	moved := instance("other", 1, "")
	for name, c := range map[string]struct {
		do   func(*store.Tx) error
		want mvm.Kind
	}{
		"pool without tenant": {func(tx *store.Tx) error { return tx.PutPool(mvm.Pool{Tenant: "no", Spec: mvm.PoolSpec{ID: "p"}}) }, mvm.KindNotFound},
		"instance without pool": {func(tx *store.Tx) error {
			return tx.PutInstance(mvm.Instance{ID: "i-000000ff", Tenant: "acme", Pool: "no"})
		}, mvm.KindNotFound},
		"instance with a bad id": {func(tx *store.Tx) error {
			return tx.PutInstance(mvm.Instance{ID: "x", Tenant: "acme", Pool: "workers"})
		}, mvm.KindInvalid},
		"instance of another tenant": {func(tx *store.Tx) error { return tx.PutInstance(moved) }, mvm.KindInvalid},
		"secrets without tenant":     {func(tx *store.Tx) error { return tx.PutSecrets("no", nil) }, mvm.KindNotFound},
		"tenant with a bad name":     {func(tx *store.Tx) error { return tx.PutTenant(mvm.Tenant{ID: "a/b"}) }, mvm.KindInvalid},
		"tenant without net_id":      {func(tx *store.Tx) error { return tx.PutTenant(mvm.Tenant{ID: "x", NetID: 9}) }, mvm.KindInvalid},
		"tenant with another's":      {func(tx *store.Tx) error { return tx.PutTenant(mvm.Tenant{ID: "x", NetID: 0}) }, mvm.KindExists},
		"delete tenant with pools":   {func(tx *store.Tx) error { return tx.DeleteTenant("acme") }, mvm.KindState},
		"delete pool with instances": {func(tx *store.Tx) error { return tx.DeletePool("acme", "workers") }, mvm.KindState},
		"the store's own meta":       {func(tx *store.Tx) error { return tx.PutMeta("schema_version", "7") }, mvm.KindInvalid},
	} {
		t.Run(name, func(t *testing.T) { wantKind(t, s.Update(c.do), c.want) })
	}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.DeleteInstance("i-00000001"), tx.DeletePool("acme", "workers"), tx.DeleteTenant("acme"), tx.Check())
	})
	view(t, s, func(tx *store.Tx) error {
		if tx.Secrets("acme") != nil {
			t.Error("a tenant's secrets must go with it")
		}
		_, err := tx.Pool("acme", "workers")
		wantKind(t, err, mvm.KindNotFound)
		return nil
	})
}

// A net_id is its tenant's. After it was destroyed the same name may have it back at once,
// and others after a quarantine, when no other is left or they ask for it.
func TestNetIDsAreKeptFromOthers(t *testing.T) {
	s := openStore(t, store.Options{})
	now := time.Now()
	later := now.Add(store.NetIDQuarantine + time.Minute)
	destroy := func(tx *store.Tx, id string) error {
		return errors.Join(tx.DeletePool(id, "workers"), tx.DeleteTenant(id))
	}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.ReserveNetID("zeta", 1, now), addTenant(tx, "acme"), destroy(tx, "acme"))
	})
	for _, want := range []int{2, 3} {
		update(t, s, func(tx *store.Tx) error {
			got, err := tx.NextNetID("beta", later, nil)
			if got != want {
				t.Errorf("got net_id %d, want %d: those that nobody had come first", got, want)
			}
			return err
		})
	}
	for _, c := range []struct {
		tenant string
		id     int
		at     time.Time
		want   mvm.Kind
	}{
		{"beta", 0, now, mvm.KindExists}, {"beta", 0, now.Add(store.NetIDQuarantine - time.Minute), mvm.KindExists}, {"beta", 0, later, ""}, {"acme", 0, now, ""},
		{"beta", 1, later, mvm.KindExists}, {"zeta", 1, later, mvm.KindExists}, {"beta", 3, later, mvm.KindExists},
		{"beta", -1, now, mvm.KindInvalid}, {"beta", 4096, now, mvm.KindInvalid},
	} {
		err := s.Update(func(tx *store.Tx) error { return errors.Join(tx.ReserveNetID(c.tenant, c.id, c.at), errUndo) })
		if c.want == "" && (!errors.Is(err, errUndo) || err.Error() != errUndo.Error()) || c.want != "" && mvm.KindOf(err) != c.want {
			t.Errorf("net_id %d for %s at %s: got %v, want kind %q", c.id, c.tenant, c.at, err, c.want)
		}
	}
	err := s.Update(func(tx *store.Tx) error {
		return tx.PutTenant(mvm.Tenant{ID: "beta", NetID: 0, Subnet: mvm.DefaultSubnet(0), Quota: mvm.DefaultQuota()})
	})
	wantKind(t, err, mvm.KindInvalid) // it is nobody's
	err = s.Update(func(tx *store.Tx) error {
		for n := range mvm.MaxNetID + 1 { // quicker than NextNetID, which looks at all below
			if err := tx.ReserveNetID("beta", n, now); err != nil && !mvm.IsKind(err, mvm.KindExists) {
				return err
			}
		}
		_, err := tx.NextNetID("beta", now, nil)
		got, again := tx.NextNetID("beta", later, nil)
		if got != 0 {
			t.Errorf("got net_id %d, want 0, which is given up: %v", got, again)
		}
		return errors.Join(err, again)
	})
	wantKind(t, err, mvm.KindState)
}

var errUndo = errors.New("undo")

func TestUIDsAreFreeAndGoRound(t *testing.T) {
	s := openStore(t, store.Options{UIDBase: 1000, UIDCount: 3})
	update(t, s, func(tx *store.Tx) error { return addTenant(tx, "acme") })
	take := func(n int) (got int) {
		update(t, s, func(tx *store.Tx) (err error) {
			v := instance("acme", n, "")
			if v.UID, err = tx.AllocUID(); err != nil {
				return err
			}
			got = v.UID
			return tx.PutInstance(v)
		})
		return got
	}
	for n, want := range []int{1000, 1001, 1002} {
		if got := take(n); got != want {
			t.Errorf("got uid %d, want %d", got, want)
		}
	}
	wantKind(t, s.Update(func(tx *store.Tx) error { _, err := tx.AllocUID(); return err }), mvm.KindState)
	update(t, s, func(tx *store.Tx) error { return tx.DeleteInstance("i-00000001") })
	if got := take(7); got != 1001 {
		t.Errorf("got uid %d, want the one that is free again, 1001", got)
	}
}

func TestFreeOffset(t *testing.T) {
	s := openStore(t, store.Options{})
	update(t, s, func(tx *store.Tx) error {
		err := errors.Join(addTenant(tx, "acme"))
		v, err2 := tx.Tenant("acme")
		v.Subnet = netip.MustParsePrefix("10.1.0.0/28")
		return errors.Join(err, err2, tx.PutTenant(v))
	})
	free := func() (n int, err error) {
		err = s.Update(func(tx *store.Tx) (err error) { n, err = tx.FreeOffset("acme"); return err })
		return n, err
	}
	for n := mvm.FirstInstanceOffset; n < 15; n++ {
		got, err := free()
		if got != n || err != nil {
			t.Fatalf("got offset %d %v, want %d", got, err, n)
		}
		v := instance("acme", n, "")
		v.Offset = n
		update(t, s, func(tx *store.Tx) error { return tx.PutInstance(v) })
	}
	_, err := free()
	wantKind(t, err, mvm.KindQuota)
	update(t, s, func(tx *store.Tx) error { return tx.DeleteInstance("i-00000005") })
	if got, err := free(); got != 5 || err != nil {
		t.Errorf("got offset %d %v, want 5", got, err)
	}
}

func seqs(events []mvm.Event) []uint64 {
	var out []uint64
	for _, e := range events {
		out = append(out, e.Seq)
	}
	return out
}

func TestEvents(t *testing.T) {
	s := openStore(t, store.Options{})
	appended := s.NewEvents()
	update(t, s, func(tx *store.Tx) error {
		for i := range 10 {
			e, err := tx.AppendEvent(mvm.Event{Action: mvm.InstanceWoken, Tenant: []string{"a", "b"}[i%2], Pool: "p", Instance: fmt.Sprint(i)})
			if err != nil || e.Seq != uint64(i+1) {
				t.Errorf("got seq %d %v, want %d", e.Seq, err, i+1)
			}
		}
		return nil
	})
	select {
	case <-appended:
	default:
		t.Error("NewEvents was not closed by a commit with events")
	}
	for name, c := range map[string]struct {
		read func(*store.Tx) ([]mvm.Event, error)
		want []uint64
	}{
		"all":              {func(tx *store.Tx) ([]mvm.Event, error) { return eventsOf(tx, 0, mvm.EventFilter{}, 0) }, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		"after and limit":  {func(tx *store.Tx) ([]mvm.Event, error) { return eventsOf(tx, 4, mvm.EventFilter{}, 2) }, []uint64{5, 6}},
		"of a tenant":      {func(tx *store.Tx) ([]mvm.Event, error) { return eventsOf(tx, 4, mvm.EventFilter{Tenant: "a"}, 0) }, []uint64{5, 7, 9}},
		"of an instance":   {func(tx *store.Tx) ([]mvm.Event, error) { return eventsOf(tx, 0, mvm.EventFilter{Instance: "3"}, 0) }, []uint64{4}},
		"tail":             {func(tx *store.Tx) ([]mvm.Event, error) { return tx.TailEvents(mvm.EventFilter{}, 3, 0) }, []uint64{8, 9, 10}},
		"tail of a tenant": {func(tx *store.Tx) ([]mvm.Event, error) { return tx.TailEvents(mvm.EventFilter{Tenant: "b"}, 2, 0) }, []uint64{8, 10}},
		"after the last":   {func(tx *store.Tx) ([]mvm.Event, error) { return eventsOf(tx, 10, mvm.EventFilter{}, 0) }, nil},
	} {
		view(t, s, func(tx *store.Tx) error {
			got, err := c.read(tx)
			if diff := cmp.Diff(c.want, seqs(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			return err
		})
	}
	view(t, s, func(tx *store.Tx) error {
		for _, c := range []struct {
			after         uint64
			f             mvm.EventFilter
			n             int
			before, found int
		}{
			{math.MaxUint64, mvm.EventFilter{}, 3, 7, 3},
			{math.MaxUint64, mvm.EventFilter{}, 100, 0, 10},
			{4, mvm.EventFilter{}, 2, 2, 2},
			{math.MaxUint64, mvm.EventFilter{Tenant: "b"}, 2, 7, 2},
			{math.MaxUint64, mvm.EventFilter{Tenant: "nobody"}, 2, 0, 0},
		} {
			before, found, err := tx.Back(c.after, c.f, c.n)
			if err != nil || before != uint64(c.before) || found != c.found {
				t.Errorf("Back(%d, %+v, %d) = %d, %d, %v, want %d, %d", c.after, c.f, c.n, before, found, err, c.before, c.found)
			}
		}
		return nil
	})
	update(t, s, func(tx *store.Tx) error {
		n, _, err := tx.TrimEvents(time.Time{}, 4)
		if n != 6 {
			t.Errorf("got %d trimmed, want 6", n)
		}
		e, err2 := tx.AppendEvent(mvm.Event{})
		if e.Seq != 11 {
			t.Errorf("got seq %d after trimming, want 11", e.Seq)
		}
		return errors.Join(err, err2, tx.Check())
	})
}
