package linuxnet

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/egress"
	"mvm/internal/network"
)

var _ network.Names = (*Network)(nil)

// maxAnswers bounds the addresses that are open by names, of all guests together.
const maxAnswers = 1 << 17

// namedChains let guests whose egress has names reach what it has and what names led to.
// They are behind connection tracking: a connection lives on when its address is closed.
func namedChains() []chainDef {
	return []chainDef{
		{family: famINet, name: "ask", rules: []ruleDef{
			rule4("who asks too often is not heard", askingOften(), drop()),
			rule("mvm's resolver", accept()),
		}},
		{family: famINet, name: "named", rules: []ruleDef{
			rule4("what the pool's egress allows by address", in(setEgress, flow()...), back()),
			rule4("where a name led", in(setAnswers, netBytes(offIPSrc, 4, reg1), netBytes(offIPDst, 4, reg1b4)), back()),
			rule4("connections that are open", ctState(stateEstablished), back()),
			rule4("closed: the pool's egress has names", jump("refuse")),
		}},
	}
}

// OpenResolver is described at network.Names.
func (n *Network) OpenResolver(ctx context.Context, tenant string) (udp, tcp *os.File, err error) {
	if err := n.lock(ctx, "open resolver"); err != nil {
		return nil, nil, err
	}
	defer n.mu.Unlock()
	t, err := n.cfg.Resolver(tenant)
	if err != nil {
		return nil, nil, err
	}
	at := netip.AddrPortFrom(t.Gateway(), 53)
	err = n.ns.do(func() (err error) {
		udp, tcp, err = network.ListenResolver(at)
		return err
	})
	if err != nil {
		return nil, nil, mvm.Errorf(mvm.KindUnavailable, "listen at %s for tenant %s: %w", at, tenant, err).WithFix("see who has the port: ss -lnp sport = :53")
	}
	return udp, tcp, nil
}

// Admit is described at network.Names.
func (n *Network) Admit(ctx context.Context, tenant, instance string, list []network.Admission) error {
	if err := network.CheckAdmissions(list); err != nil {
		return err
	}
	if err := n.lock(ctx, "open addresses"); err != nil {
		return err
	}
	defer n.mu.Unlock()
	t, i, err := n.cfg.Find(tenant, instance)
	if err != nil {
		return err
	}
	if !t.Named(i) || !n.synced {
		return mvm.Errorf(mvm.KindState, "open addresses for %s: its egress has no names, or is not in force", instance)
	}
	from, _ := mvm.SubnetAddr(t.Subnet, i.Offset)
	if err := n.roomFor(t, from, list); err != nil {
		return err
	}
	now := time.Now()
	elems := make([]nftables.SetElement, len(list))
	for k, a := range list {
		elems[k] = answer(from, a.Address, a.For)
	}
	if err := n.inOne(func() error { return n.fw.admit(elems) }); err != nil {
		return err
	}
	for _, a := range list {
		n.answers[string(answerKey(from, a.Address))] = now.Add(a.For)
	}
	if len(n.answers) > maxAnswers {
		_ = n.answersLeft() // forgets those that are over
	}
	return nil
}

// roomFor refuses what would open more for the tenant than it may have. The lock is held.
func (n *Network) roomFor(t network.Tenant, from netip.Addr, list []network.Admission) error {
	if len(n.answers)+len(list) <= network.MaxTenantAdmissions {
		return nil // whoever has them
	}
	_ = n.answersLeft() // forgets those that are over
	have := 0
	for k := range n.answers {
		if a, _ := netip.AddrFromSlice([]byte(k[:4])); t.Subnet.Contains(a) {
			have++
		}
	}
	more := map[netip.Addr]bool{}
	for _, a := range list {
		if _, open := n.answers[string(answerKey(from, a.Address))]; !open {
			more[a.Address] = true
		}
	}
	if have+len(more) > network.MaxTenantAdmissions {
		return mvm.Errorf(mvm.KindQuota, "open addresses: %d are open for guests of tenant %s, and %d more would be above %d", have, t.ID, len(more), network.MaxTenantAdmissions)
	}
	return nil
}

func answerKey(from, to netip.Addr) []byte { return append(from.AsSlice(), to.AsSlice()...) }

func answer(from, to netip.Addr, d time.Duration) nftables.SetElement {
	return nftables.SetElement{Key: answerKey(from, to), Timeout: d}
}

// answersLeft are the answers that are open still.
func (n *Network) answersLeft() (out []nftables.SetElement) {
	for k, until := range n.answers {
		left := time.Until(until)
		if left < time.Second {
			delete(n.answers, k)
			continue
		}
		out = append(out, nftables.SetElement{Key: []byte(k), Timeout: left})
	}
	return out
}

// inOne makes one transaction that changes no set which is compared, and keeps what is known
// of the tables where nobody else changed them.
func (n *Network) inOne(commit func() error) error {
	before, err := n.fw.generation()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "read nftables generation: %w", err)
	}
	if err := commit(); err != nil {
		return err
	}
	after, err := n.fw.generation()
	if err == nil && before == n.inForce.gen && after == before+1 {
		n.inForce.gen = after
	}
	return nil
}

// admit puts the elements into the set with the time that they say. One that is there is
// made anew: adding it again would leave it its time.
func (f *firewall) admit(elems []nftables.SetElement) error {
	c, err := f.conn()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "open nftables: %w", err)
	}
	for _, change := range []func(*nftables.Set, []nftables.SetElement) error{c.SetAddElements, c.SetDeleteElements, c.SetAddElements} {
		if err := f.queueAnswers(change, elems); err != nil {
			return err
		}
	}
	return f.flush(c)
}

func (f *firewall) queueAnswers(change func(*nftables.Set, []nftables.SetElement) error, elems []nftables.SetElement) error {
	set := f.set(f.rules.sets[f.setID(setAnswers)-1])
	for part := range slices.Chunk(elems, maxBatch) {
		if err := change(set, part); err != nil {
			return mvm.Errorf(mvm.KindInternal, "change nftables set %s: %w", setAnswers, err)
		}
	}
	return nil
}

// noteCleared notes the guests that another egress, or another instance, has taken the place
// of: what names opened for them is closed, and what they hold open is looked at anew.
func (n *Network) noteCleared(cfg network.Config) {
	type who struct {
		id   string
		list []egress.Destination
	}
	of := func(c network.Config) map[netip.Addr]who {
		out := map[netip.Addr]who{}
		for _, t := range c.Tenants {
			for _, i := range t.Instances {
				if a, ok := mvm.SubnetAddr(t.Subnet, i.Offset); ok && t.Named(i) {
					out[a] = who{i.ID, t.Egress[i.Egress-1]}
				}
			}
		}
		return out
	}
	was, is := of(n.cfg), of(cfg)
	for a, w := range was {
		if now := is[a]; now.id != w.id || !slices.Equal(now.list, w.list) {
			n.cleared[a] = true
		}
	}
	for a := range is {
		if _, ok := was[a]; !ok && n.applied { // an agent that starts finds what the one before opened
			n.cleared[a] = true
		}
	}
}

// clearAnswers does what noteCleared noted. What fails is tried again by the next Apply.
func (n *Network) clearAnswers() {
	if len(n.cleared) == 0 {
		return
	}
	err := n.inOne(func() error { return n.fw.forget(n.cleared) })
	if err == nil {
		for k := range n.answers {
			if a, _ := netip.AddrFromSlice([]byte(k[:4])); n.cleared[a] {
				delete(n.answers, k)
			}
		}
		for a := range n.cleared { // what is opened from now on stays, whatever becomes of the connections
			n.cleared[a] = false
		}
		err = n.ns.do(func() error { return n.cut(n.cleared) })
	}
	if err != nil {
		n.log.Warn("close what names opened before", "error", err)
		return
	}
	clear(n.cleared)
}

// forget removes the answers of the guests that are true.
func (f *firewall) forget(guests map[netip.Addr]bool) error {
	c, err := f.conn()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "open nftables: %w", err)
	}
	have, err := c.GetSetElements(f.set(f.rules.sets[f.setID(setAnswers)-1]))
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "read nftables set %s: %w", setAnswers, err)
	}
	var gone []nftables.SetElement
	for _, e := range have {
		if len(e.Key) != 8 {
			continue
		}
		if a, _ := netip.AddrFromSlice(e.Key[:4]); guests[a] {
			gone = append(gone, answer(a, netip.AddrFrom4([4]byte(e.Key[4:])), time.Hour))
		}
	}
	if len(gone) == 0 {
		return nil
	}
	// Added first: one that is over by now would fail the whole.
	for _, change := range []func(*nftables.Set, []nftables.SetElement) error{c.SetAddElements, c.SetDeleteElements} {
		if err := f.queueAnswers(change, gone); err != nil {
			return err
		}
	}
	return f.flush(c)
}

// forgetConnections has the kernel take the guests' next packets as those of new connections.
// It runs in the namespace.
func forgetConnections(guests map[netip.Addr]bool) error {
	var filters []netlink.CustomConntrackFilter
	for a := range guests {
		f := &netlink.ConntrackFilter{}
		if err := f.AddIP(netlink.ConntrackOrigSrcIP, a.AsSlice()); err != nil {
			return err
		}
		filters = append(filters, f)
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...)
	return err
}
