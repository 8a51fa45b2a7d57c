// Package linuxnet makes tenant networks with the Linux kernel's bridges, TAPs and
// nftables.
//
// Each tenant has a bridge, br-tenant-<net_id>, which carries the tenant's gateway
// address. An instance's TAP is a port of it. Two nftables tables, one of the bridge
// family and one of the inet family, hold fixed rules that match mvm's interface
// names whether or not the interfaces exist, and drop what they do not know; what
// differs between tenants is in their sets. So an interface that appears before its
// elements, or stays behind after them, is cut off and not open.
//
// The layers, from the guest outwards:
//
//	bridge rates   a guest sends and gets so many frames and bytes in a second
//	bridge table   a frame has the port's own MAC and IPv4 address, or is dropped;
//	               a port gets what is for its MAC and address, and ARP
//	inet raw       the sender is an instance of the bridge's tenant; the destination,
//	               as the guest wrote it, is the tenant's, or the outside
//	inet filter    the same after NAT by others, and connection states
//	inet forward   also: of an instance whose egress has names, only what a name led to
//	inet output    only mvm's users begin connections to guests
//	bridge port    learns no MACs, floods nothing; one of a user's instance is isolated
//	sysctls        the host answers on a bridge for that bridge's address only
package linuxnet

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/network"
)

// Options choose how a Network works; the zero value is a host's.
type Options struct {
	Log *slog.Logger // nil: log nothing
	// Netns is the path of the network namespace to work in; empty: the process's own.
	Netns string
	// Table is the name of the two nftables tables, default "mvm".
	Table string
	// Cluster holds the tenants of every host, default mvm.ClusterCIDR: no guest
	// reaches an address in it outside of its own tenant.
	Cluster netip.Prefix
	// Blocked are IPv4 destinations that no guest reaches, beside link-local ones
	// (which cloud machines keep their credentials on). A home network belongs here
	// when guests must not reach the other machines in it.
	Blocked []netip.Prefix
	// MaxConns bounds the connections that one guest holds through the host, default 4096.
	MaxConns int
	// Rates are what each guest may send and get; the zero value: the default.
	Rates Rates
	// Callers are users, beside root, whose processes may begin connections to guests.
	Callers []int
}

// Network is a network.Network on the Linux kernel. It is safe for concurrent use.
type Network struct {
	log   *slog.Logger
	ns    namespace
	links *netlink.Handle

	mu      sync.Mutex
	closed  bool
	fw      firewall
	cfg     network.Config
	applied bool                    // cfg was asked for by an Apply
	synced  bool                    // the kernel agreed with cfg when we last looked
	inForce observed                // what we put into nftables, or found, when we last looked
	bridges map[string]netip.Prefix // by name; the zero Prefix: to be looked at again

	isolated map[string]bool // by TAP; those that are not in it are to be looked at

	answers map[string]time.Time // until when what Admit opened is open, by the set's key
	cleared map[netip.Addr]bool  // guests whose connections are to be cleared; true: and answers
	cut     func(guests map[netip.Addr]bool) error
}

var _ network.Network = (*Network)(nil)

// New opens a Network; it changes nothing in the kernel until the first Apply.
func New(opts Options) (*Network, error) {
	ns, err := openNamespace(opts.Netns)
	if err != nil {
		return nil, err
	}
	rules, err := opts.ruleset()
	if err != nil {
		return nil, errors.Join(err, ns.close())
	}
	handle := netns.None()
	if ns.file != nil {
		handle = netns.NsHandle(ns.fd())
	}
	links, err := netlink.NewHandleAt(handle, unix.NETLINK_ROUTE)
	if err != nil {
		err = mvm.Errorf(mvm.KindInternal, "open netlink: %w", err)
		return nil, errors.Join(err, ns.close())
	}
	n := &Network{log: opts.Log, ns: ns, links: links, bridges: map[string]netip.Prefix{}, isolated: map[string]bool{}, answers: map[string]time.Time{}, cleared: map[netip.Addr]bool{}, cut: forgetConnections}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.fw = newFirewall(ns.fd(), cmp.Or(opts.Table, "mvm"), rules)
	return n, nil
}

func (o Options) ruleset() (ruleset, error) {
	cluster, conns := o.Cluster, o.MaxConns
	if !cluster.IsValid() {
		cluster = mvm.ClusterCIDR
	}
	if conns == 0 {
		conns = 4096
	}
	blocked := append([]netip.Prefix{netip.MustParsePrefix("169.254.0.0/16")}, o.Blocked...)
	for _, p := range append(blocked, cluster) {
		if !p.IsValid() || !p.Addr().Is4() {
			return ruleset{}, mvm.Errorf(mvm.KindInvalid, "set up network: blocked range %s is not an IPv4 prefix", p)
		}
	}
	if conns < 1 {
		return ruleset{}, mvm.Errorf(mvm.KindInvalid, "set up network: %d connections per guest is below 1", conns)
	}
	rates, err := o.Rates.filled()
	if err != nil {
		return ruleset{}, err
	}
	return newRuleset(cluster, blocked, uint32(conns), append([]int{0}, o.Callers...), rates), nil
}

// lock takes the Network's turn, unless ctx has ended or the Network is closed.
func (n *Network) lock(ctx context.Context, what string) error {
	n.mu.Lock()
	err := ctx.Err()
	switch {
	case err == nil && !n.closed:
		return nil
	case err == nil:
		err = mvm.Errorf(mvm.KindState, "%s: the network is closed", what)
	case errors.Is(err, context.DeadlineExceeded):
		err = mvm.Errorf(mvm.KindTimeout, "%s: %w", what, err)
	default:
		err = mvm.Errorf(mvm.KindCanceled, "%s: %w", what, err)
	}
	n.mu.Unlock()
	return err
}

// Close closes sockets; bridges and rules stay as they are.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	n.links.Close()
	return n.ns.close()
}
