package linuxnet

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"

	"mvm"
)

func (f *firewall) tableOf(family nftables.TableFamily) *nftables.Table {
	return &nftables.Table{Name: f.table, Family: family}
}

func (f *firewall) set(s setDef) *nftables.Set {
	return &nftables.Set{
		Table: f.tableOf(s.family), ID: f.setID(s.name), Name: s.name, KeyType: s.key,
		Concatenation: s.concat, Dynamic: s.dynamic, Interval: s.ranges, Size: s.size, HasTimeout: s.timeout > 0, Timeout: s.timeout, KeyByteOrder: binaryutil.BigEndian,
	}
}

// setID numbers the sets within a transaction.
func (f *firewall) setID(name string) uint32 {
	return uint32(1 + slices.IndexFunc(f.rules.sets, func(s setDef) bool { return s.name == name }))
}

func (f *firewall) chain(c chainDef) *nftables.Chain {
	ch := &nftables.Chain{Name: c.name, Table: f.tableOf(c.family)}
	if c.hook != nil {
		policy := nftables.ChainPolicyAccept
		ch.Type, ch.Hooknum, ch.Priority, ch.Policy = c.kind, c.hook, nftables.ChainPriorityRef(nftables.ChainPriority(c.prio)), &policy
	}
	return ch
}

func (f *firewall) rule(c *nftables.Chain, r ruleDef) *nftables.Rule {
	return &nftables.Rule{
		Table: c.Table, Chain: c, Exprs: r.exprs,
		UserData: userdata.AppendString(nil, userdata.TypeComment, r.why),
	}
}

// rebuild replaces both tables by the ruleset with the elements and the answers, in one
// transaction.
func (f *firewall) rebuild(want elements, answers []nftables.SetElement) error {
	c, err := f.conn()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "open nftables: %w", err)
	}
	for _, family := range []nftables.TableFamily{famBridge, famINet} {
		c.AddTable(f.tableOf(family)) // so that it is there to be deleted
		c.DelTable(f.tableOf(family))
		c.AddTable(f.tableOf(family))
	}
	for _, s := range f.rules.sets {
		if err := c.AddSet(f.set(s), nil); err != nil {
			return mvm.Errorf(mvm.KindInternal, "make nftables set %s: %w", s.name, err)
		}
	}
	for _, d := range f.rules.chains {
		c.AddChain(f.chain(d))
	}
	for _, d := range f.rules.chains {
		for _, r := range d.rules {
			c.AddRule(f.rule(f.chain(d), r))
		}
	}
	if err := f.queue(c, newElements(), want); err != nil {
		return err
	}
	if err := f.queueAnswers(c.SetAddElements, answers); err != nil {
		return err
	}
	return f.flush(c)
}

// change makes the elements those wanted, in one transaction; it does nothing when
// they are.
func (f *firewall) change(have, want elements) error {
	c, err := f.conn()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "open nftables: %w", err)
	}
	if err := f.queue(c, have, want); err != nil {
		return err
	}
	return f.flush(c)
}

func (f *firewall) queue(c *nftables.Conn, have, want elements) error {
	for _, d := range f.rules.sets {
		set := f.set(d)
		for part := range slices.Chunk(have.missing(want, d.name), maxBatch) {
			if err := c.SetDeleteElements(set, setElements(part, d.ranges)); err != nil {
				return mvm.Errorf(mvm.KindInternal, "remove from nftables set %s: %w", d.name, err)
			}
		}
		for part := range slices.Chunk(want.missing(have, d.name), maxBatch) {
			if err := c.SetAddElements(set, setElements(part, d.ranges)); err != nil {
				return mvm.Errorf(mvm.KindInternal, "add to nftables set %s: %w", d.name, err)
			}
		}
	}
	return nil
}

func (f *firewall) flush(c *nftables.Conn) error {
	if err := c.Flush(); err != nil {
		return mvm.Errorf(mvm.KindInternal, "change nftables tables %s: %w", f.table, err).
			WithFix("run as root on a kernel with nftables (families bridge and inet, fib, connlimit)")
	}
	return nil
}

// remove deletes both tables.
func (f *firewall) remove() error {
	c, err := f.conn()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "open nftables: %w", err)
	}
	for _, family := range []nftables.TableFamily{famBridge, famINet} {
		c.AddTable(f.tableOf(family))
		c.DelTable(f.tableOf(family))
	}
	return f.flush(c)
}
