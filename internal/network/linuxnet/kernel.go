package linuxnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mvm"
)

// socketBuffer is what a transaction's messages and answers need at most.
const socketBuffer = 32 << 20

// firewall reads and writes the two nftables tables.
type firewall struct {
	netns int // file of the namespace, 0: the process's own
	table string
	rules ruleset
	shape map[string]string // of the ruleset, as read describes the kernel's
}

func newFirewall(netns int, table string, rules ruleset) firewall {
	f := firewall{netns: netns, table: table, rules: rules}
	f.shape = f.describe()
	return f
}

// observed is what the kernel has of the tables.
type observed struct {
	shape    map[string]string // what is fixed; empty without tables
	elements elements
	gen      uint32 // nftables' generation that has it
}

func (o observed) present() bool { return len(o.shape) > 0 }

func (f *firewall) conn() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(f.netns), nftables.WithSockOptions(
		func(c *mdnetlink.Conn) error { return c.SetReadBuffer(socketBuffer) },
		func(c *mdnetlink.Conn) error { return c.SetWriteBuffer(socketBuffer) },
	))
}

// generation returns a number that changes with every change of any nftables rule.
func (f *firewall) generation() (uint32, error) {
	c, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, &mdnetlink.Config{NetNS: f.netns})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	msgs, err := c.Execute(mdnetlink.Message{
		Header: mdnetlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: mdnetlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		attrs, err := mdnetlink.UnmarshalAttributes(m.Data[4:])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Type == unix.NFTA_GEN_ID && len(a.Data) == 4 {
				return binary.BigEndian.Uint32(a.Data), nil
			}
		}
	}
	return 0, errors.New("the kernel told no generation")
}

// read returns what the kernel has, of one moment: it reads again when the rules
// changed meanwhile.
func (f *firewall) read() (observed, error) {
	for range 20 {
		before, err := f.generation()
		if err != nil {
			return observed{}, mvm.Errorf(mvm.KindInternal, "read nftables generation: %w", err)
		}
		o, err := f.readOnce()
		if err != nil && !retryable(err) {
			return observed{}, mvm.Errorf(mvm.KindInternal, "read nftables tables %s: %w", f.table, err)
		}
		after, gerr := f.generation()
		if gerr == nil && err == nil && before == after {
			o.gen = after
			return o, nil
		}
	}
	return observed{}, mvm.Errorf(mvm.KindUnavailable, "read nftables tables %s: the rules change all the time", f.table)
}

func retryable(err error) bool {
	for _, e := range []error{syscall.EINTR, syscall.EAGAIN, syscall.ENOENT, syscall.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (f *firewall) readOnce() (observed, error) {
	o := observed{shape: map[string]string{}, elements: newElements()}
	c, err := f.conn()
	if err != nil {
		return o, err
	}
	for _, family := range []nftables.TableFamily{famBridge, famINet} {
		tables, err := c.ListTablesOfFamily(family)
		if err != nil {
			return o, err
		}
		for _, t := range tables {
			if t.Name != f.table {
				continue
			}
			o.shape[famName(family)+" table"] = fmt.Sprint(t.Flags)
			if err := readTable(c, t, &o); err != nil {
				return o, err
			}
		}
	}
	return o, nil
}

func readTable(c *nftables.Conn, t *nftables.Table, o *observed) error {
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		if ch.Table.Name != t.Name {
			continue
		}
		rules, err := c.GetRules(t, ch)
		if err != nil {
			return err
		}
		o.shape[famName(t.Family)+" chain "+ch.Name] = chainShape(ch, rules)
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return err
	}
	for _, s := range sets {
		o.shape[famName(t.Family)+" set "+s.Name] = setShape(s)
		if o.elements[s.Name] == nil {
			continue
		}
		elems, err := c.GetSetElements(s)
		if err != nil {
			return err
		}
		for _, e := range elems {
			o.elements[s.Name][string(e.Key)+string(e.KeyEnd)] = true
		}
	}
	return nil
}

func famName(f nftables.TableFamily) string {
	if f == famBridge {
		return "bridge"
	}
	return "inet"
}

func setShape(s *nftables.Set) string {
	return fmt.Sprint(s.KeyType.GetNFTMagic(), s.KeyType.Bytes, s.Concatenation, s.Dynamic, s.Interval, s.IsMap, s.HasTimeout, s.Anonymous, s.Size)
}

// chainShape describes a chain and its rules so that two descriptions are equal only
// if the chains do the same.
func chainShape(c *nftables.Chain, rules []*nftables.Rule) string {
	var b strings.Builder
	if c.Hooknum != nil && c.Priority != nil && c.Policy != nil {
		fmt.Fprint(&b, c.Type, *c.Hooknum, " ", *c.Priority, " ", *c.Policy)
	}
	for _, r := range rules {
		why, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		fmt.Fprintf(&b, "\n%s:", why)
		for _, e := range r.Exprs {
			fmt.Fprintf(&b, " %T%x", e, exprBytes(c.Table.Family, e))
		}
	}
	return b.String()
}

// exprBytes is the expression as it goes to the kernel, without ids that only hold
// within one transaction.
func exprBytes(family nftables.TableFamily, e expr.Any) []byte {
	switch v := e.(type) {
	case *expr.Lookup:
		c := *v
		c.SetID = 0
		e = &c
	case *expr.Dynset:
		c := *v
		c.SetID = 0
		e = &c
	}
	b, err := expr.Marshal(byte(family), e)
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

// describe describes the ruleset in the way in which read describes the kernel's.
func (f *firewall) describe() map[string]string {
	out := map[string]string{"bridge table": "0", "inet table": "0"}
	for _, s := range f.rules.sets {
		out[famName(s.family)+" set "+s.name] = setShape(f.set(s))
	}
	for _, c := range f.rules.chains {
		ch := f.chain(c)
		var rules []*nftables.Rule
		for _, r := range c.rules {
			rules = append(rules, f.rule(ch, r))
		}
		out[famName(c.family)+" chain "+c.name] = chainShape(ch, rules)
	}
	return out
}

// differences names what differs between the wanted and the observed shape, sorted.
func differences(want, got map[string]string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		switch g, ok := got[k]; {
		case !ok:
			out = append(out, k+" is missing")
		case g != want[k]:
			out = append(out, k+" was changed")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[k]; !ok {
			out = append(out, k+" is not mvm's")
		}
	}
	return out
}
