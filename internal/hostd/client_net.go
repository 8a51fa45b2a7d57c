package hostd

import (
	"context"
	"os"
	"sync"

	"mvm"
	"mvm/internal/network"
)

// Network is the network.Network of a process without rights.
type Network struct {
	c *Client

	mu      sync.Mutex
	closed  bool
	applied *network.Config // last, as the server has it
	epoch   string          // of the server that has it
}

var (
	_ network.Network = (*Network)(nil)
	_ network.Names   = (*Network)(nil)
)

// Network returns the part of the Client that networks need.
func (c *Client) Network() *Network { return &Network{c: c} }

// open refuses after Close.
func (n *Network) open(what string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return mvm.Errorf(mvm.KindState, "%s: the network is closed", what)
	}
	return nil
}

// Apply is described at network.Network.
func (n *Network) Apply(ctx context.Context, cfg network.Config) error {
	if err := n.open("apply network"); err != nil {
		return err
	}
	epoch, err := n.c.epoch(ctx) // before: a restart in between is seen later
	if err != nil {
		return err
	}
	if _, _, err := call[none](ctx, n.c, opApply, cfg, nil); err != nil {
		return err
	}
	cfg = cfg.Clone()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applied, n.epoch = &cfg, epoch
	return nil
}

func (n *Network) last() *network.Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.applied
}

// again gives a server that was restarted what its predecessor had.
func (n *Network) again(ctx context.Context) error {
	epoch, err := n.c.epoch(ctx)
	if err != nil {
		return err
	}
	n.mu.Lock()
	cfg, same := n.applied, n.epoch == epoch
	n.mu.Unlock()
	if cfg == nil || same {
		return nil
	}
	return n.Apply(ctx, *cfg)
}

// OpenTAP is described at network.Network.
func (n *Network) OpenTAP(ctx context.Context, tenant, instance string, owner int) (*os.File, error) {
	var f *os.File
	err := n.known(ctx, "open TAP", func() (err error) {
		f, err = n.tap(ctx, tenant, instance, owner)
		return err
	})
	return f, err
}

func (n *Network) tap(ctx context.Context, tenant, instance string, owner int) (*os.File, error) {
	_, got, err := call[none](ctx, n.c, opTAP, tapRequest{tenant, instance, owner}, nil)
	if err == nil && len(got) != 1 {
		err = mvm.Errorf(mvm.KindUnavailable, "read the answer of mvm hostd: it has no TAP")
	}
	if err != nil {
		closeAll(got)
		return nil, err
	}
	return got[0], nil
}

// OpenResolver is described at network.Names.
func (n *Network) OpenResolver(ctx context.Context, tenant string) (udp, tcp *os.File, err error) {
	var got []*os.File
	err = n.known(ctx, "open resolver", func() (err error) {
		_, got, err = call[none](ctx, n.c, opResolver, resolverRequest{tenant}, nil)
		return err
	})
	if err == nil && len(got) != 2 {
		err = mvm.Errorf(mvm.KindUnavailable, "read the answer of mvm hostd: it has %d sockets, not 2", len(got))
	}
	if err != nil {
		closeAll(got)
		return nil, nil, err
	}
	return got[0], got[1], nil
}

// Admit is described at network.Names.
func (n *Network) Admit(ctx context.Context, tenant, instance string, list []network.Admission) error {
	return n.known(ctx, "open addresses", func() error {
		_, _, err := call[none](ctx, n.c, opAdmit, admitRequest{tenant, instance, list}, nil)
		return err
	})
}

var _ network.Counters = (*Network)(nil)

// Dropped is described at network.Counters.
func (n *Network) Dropped(ctx context.Context, tenant, instance string) (d network.Drops, err error) {
	err = n.known(ctx, "count dropped frames", func() (err error) {
		d, _, err = call[network.Drops](ctx, n.c, opDropped, droppedRequest{tenant, instance}, nil)
		return err
	})
	return d, err
}

// known asks for something of the config that was applied last. A server that was restarted is
// given that, and asked once more.
func (n *Network) known(ctx context.Context, what string, ask func() error) error {
	if err := n.open(what); err != nil {
		return err
	}
	err := ask()
	if mvm.IsKind(err, mvm.KindNotFound) {
		if aerr := n.again(ctx); aerr != nil {
			return aerr
		}
		err = ask()
	}
	return err
}

// Sweep is described at network.Network.
func (n *Network) Sweep(ctx context.Context) ([]string, error) {
	if err := n.open("sweep network"); err != nil {
		return nil, err
	}
	if n.last() == nil { // the server may have one, of an agent before this one
		return nil, mvm.Errorf(mvm.KindState, "sweep network: no config was applied yet")
	}
	if err := n.again(ctx); err != nil {
		return nil, err
	}
	a, _, err := call[sweepAnswer](ctx, n.c, opSweep, none{}, nil)
	return a.Removed, err
}

// Occupied is described at network.Network.
func (n *Network) Occupied(ctx context.Context) ([]network.Range, error) {
	if err := n.open("look at the host's networks"); err != nil {
		return nil, err
	}
	a, _, err := call[occupiedAnswer](ctx, n.c, opOccupied, none{}, nil)
	return a.Ranges, err
}

// Verify is described at network.Network.
func (n *Network) Verify(ctx context.Context) ([]network.Finding, error) {
	if err := n.open("verify network"); err != nil {
		return nil, err
	}
	if err := n.again(ctx); err != nil {
		return nil, err
	}
	a, _, err := call[verifyAnswer](ctx, n.c, opVerify, none{}, nil)
	return a.Findings, err
}

// Close ends the use of the Network; the server, and the kernel's state, stay.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	return nil
}
