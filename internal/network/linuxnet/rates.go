package linuxnet

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/network"
)

// The sets of rates, which the kernel fills: a limit for each TAP, and how many frames it
// dropped. They forget a TAP that was silent for ratesFor.
const (
	setOutBytes  = "out_bytes" // what guests send
	setOutFrames = "out_frames"
	setInBytes   = "in_bytes" // what guests get
	setInFrames  = "in_frames"
	setOutOver   = "out_over"
	setInOver    = "in_over"

	ratesFor = time.Hour
)

// Rates are the most that each guest sends, and as much that it gets, in a second. A second's
// worth may come at once.
type Rates struct {
	Bytes, Frames int
}

// The default rates. A flood of small frames at this rate costs the host a part of one CPU,
// and few workloads need more.
const (
	defaultBytes  = 128 << 20
	defaultFrames = 50_000
)

func (r Rates) filled() (Rates, error) {
	if r == (Rates{}) {
		r = Rates{defaultBytes, defaultFrames}
	}
	if r.Bytes < 1 || r.Frames < 1 || r.Bytes > math.MaxUint32 || r.Frames > math.MaxUint32 {
		return r, mvm.Errorf(mvm.KindInvalid, "set up network: a rate of %d bytes and %d frames is not in 1..%d", r.Bytes, r.Frames, math.MaxUint32)
	}
	return r, nil
}

func rateSets() (out []setDef) {
	for _, name := range []string{setOutBytes, setOutFrames, setInBytes, setInFrames, setOutOver, setInOver} {
		out = append(out, setDef{family: famBridge, name: name, key: nftables.TypeIFName, dynamic: true, size: 1 << 16, timeout: ratesFor})
	}
	return out
}

// rateChains come before all else that looks at what guests send, and after it at what they
// get.
func rateChains(r Rates) []chainDef {
	in, out := expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME
	return []chainDef{
		{family: famBridge, name: "rate_out", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, prio: -400, rules: []ruleDef{
			rule("a guest sends so many frames", isTAP(in), overRate(setOutFrames, expr.LimitTypePkts, r.Frames), counted(setOutOver), drop()),
			rule("a guest sends so many bytes", isTAP(in), overRate(setOutBytes, expr.LimitTypePktBytes, r.Bytes), counted(setOutOver), drop()),
		}},
		{family: famBridge, name: "rate_in", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPostrouting, prio: 400, rules: []ruleDef{
			rule("a guest gets so many frames", isTAP(out), overRate(setInFrames, expr.LimitTypePkts, r.Frames), counted(setInOver), drop()),
			rule("a guest gets so many bytes", isTAP(out), overRate(setInBytes, expr.LimitTypePktBytes, r.Bytes), counted(setInOver), drop()),
		}},
	}
}

// overRate matches what is beyond the rate of the interface, whose name isTAP has loaded.
func overRate(set string, unit expr.LimitType, rate int) match {
	return match{&expr.Dynset{SrcRegKey: reg1, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: ratesFor,
		Exprs: []expr.Any{&expr.Limit{Type: unit, Rate: uint64(rate), Unit: expr.LimitTimeSecond, Burst: uint32(rate), Over: true}}}}
}

// counted counts the frame for the interface, whose name isTAP has loaded.
func counted(set string) match {
	return match{&expr.Dynset{SrcRegKey: reg1, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: ratesFor, Exprs: []expr.Any{&expr.Counter{}}}}
}

// dropped tells of guests whose frames were dropped of late because there were too many.
func (n *Network) dropped() ([]network.Finding, error) {
	if len(n.cfg.Tenants) == 0 {
		return nil, nil
	}
	var out []network.Finding
	for set, what := range map[string]string{setOutOver: "sent", setInOver: "was sent"} {
		counts, err := n.fw.counts(set)
		if err != nil {
			return nil, err
		}
		for _, t := range n.cfg.Tenants {
			for _, i := range t.Instances {
				if c := counts[string(ifname(mvm.TAPName(t.NetID, i.Offset)))]; c > 0 {
					out = append(out, network.Finding{Severity: minor, Where: t.ID + "/" + i.ID, What: fmt.Sprintf("the guest %s more than its rate, and %d frames were dropped", what, c),
						Fix: "see what the guest does, in mvm logs"})
				}
			}
		}
	}
	return out, nil
}

var _ network.Counters = (*Network)(nil)

// Dropped is described at network.Counters.
func (n *Network) Dropped(ctx context.Context, tenant, instance string) (d network.Drops, err error) {
	if err := n.lock(ctx, "count dropped frames"); err != nil {
		return d, err
	}
	defer n.mu.Unlock()
	t, i, err := n.cfg.Find(tenant, instance)
	if err != nil {
		return d, err
	}
	tap := ifname(mvm.TAPName(t.NetID, i.Offset))
	sent, err := n.fw.counts(setOutOver)
	if err != nil {
		return d, err
	}
	got, err := n.fw.counts(setInOver)
	return network.Drops{Sent: sent[string(tap)], Received: got[string(tap)]}, err
}

// counts reads how many frames the set counts for each interface. A set that is not there
// counts none.
func (f *firewall) counts(name string) (map[string]uint64, error) {
	c, err := f.conn()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "open nftables: %w", err)
	}
	elems, err := c.GetSetElements(f.set(f.rules.sets[f.setID(name)-1]))
	if err != nil {
		if o, rerr := f.read(); rerr == nil && o.shape["bridge set "+name] == "" {
			return nil, nil // verifyRules tells that it is not there
		}
		return nil, mvm.Errorf(mvm.KindInternal, "read nftables set %s: %w", name, err)
	}
	out := map[string]uint64{}
	for _, e := range elems {
		if e.Counter != nil {
			out[string(e.Key)] = e.Counter.Packets
		}
	}
	return out, nil
}
