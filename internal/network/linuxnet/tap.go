package linuxnet

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/network"
)

// OpenTAP makes the instance's TAP (with offload headers, IFF_VNET_HDR), attaches it
// to the tenant's bridge and returns its file, on which no frame was sent or lost
// yet. It refuses, with kind state, while another process holds the TAP, and with
// kind not_found an instance that is not in the Config applied last. The rules that
// guard the TAP are in force before it exists.
func (n *Network) OpenTAP(ctx context.Context, tenant, instance string, owner int) (*os.File, error) {
	if err := n.lock(ctx, "open TAP"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	t, i, err := n.cfg.Find(tenant, instance)
	if err != nil {
		return nil, err
	}
	if err := n.converge(ctx, n.cfg); err != nil {
		return nil, err
	}
	var f *os.File
	err = n.ns.do(func() error {
		bridge, err := interfaceIndex(mvm.BridgeName(t.NetID))
		if errors.Is(err, unix.ENODEV) { // somebody removed it since
			if err = n.ensureBridge(t); err == nil {
				bridge, err = interfaceIndex(mvm.BridgeName(t.NetID))
			}
		}
		if err == nil {
			f, err = n.openTAP(t, i, bridge, owner)
		}
		return err
	})
	if err != nil {
		return nil, tapError(t, i, err)
	}
	n.log.DebugContext(ctx, "TAP opened", "tenant", tenant, "instance", instance, "tap", mvm.TAPName(t.NetID, i.Offset))
	return f, nil
}

var _ network.NamedTAPs = (*Network)(nil)

// KeepTAP is described at network.NamedTAPs.
func (n *Network) KeepTAP(ctx context.Context, tenant, instance string, owner int) (string, error) {
	if err := n.dropTAP(ctx, tenant, instance, false); err != nil {
		return "", err
	}
	f, err := n.OpenTAP(ctx, tenant, instance, owner)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := control(f, func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1) }); err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "keep the TAP of instance %s: %w", instance, os.NewSyscallError("TUNSETPERSIST", err))
	}
	return n.tapName(ctx, tenant, instance)
}

// DropTAP is described at network.NamedTAPs.
func (n *Network) DropTAP(ctx context.Context, tenant, instance string) error {
	return n.dropTAP(ctx, tenant, instance, true)
}

// tapName is the name of the instance's TAP.
func (n *Network) tapName(ctx context.Context, tenant, instance string) (string, error) {
	if err := n.lock(ctx, "name TAP"); err != nil {
		return "", err
	}
	defer n.mu.Unlock()
	t, i, err := n.cfg.Find(tenant, instance)
	return mvm.TAPName(t.NetID, i.Offset), err
}

// dropTAP removes a TAP: one that a process holds only with force.
func (n *Network) dropTAP(ctx context.Context, tenant, instance string, force bool) error {
	name, err := n.tapName(ctx, tenant, instance)
	if mvm.IsKind(err, mvm.KindNotFound) && force { // Apply or Sweep has removed it
		return nil
	}
	if err != nil {
		return err
	}
	return n.ns.do(func() error {
		if !force && n.tapHeld(name) {
			return mvm.Errorf(mvm.KindState, "open TAP %s of instance %s: it is in use by another process", name, instance).
				WithFix("end the VMM that uses it")
		}
		return n.removeLink(name)
	})
}

// tapHeld reports that a process holds the TAP: it has no carrier otherwise.
func (n *Network) tapHeld(name string) bool {
	link, err := n.links.LinkByName(name)
	return err == nil && link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// control calls fn with the file's number, which stays its own meanwhile.
func control(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = fn(int(fd)) })
	return errors.Join(cerr, err)
}

func tapError(t network.Tenant, i network.Instance, err error) error {
	name := mvm.TAPName(t.NetID, i.Offset)
	switch {
	case errors.Is(err, unix.EBUSY):
		return mvm.Errorf(mvm.KindState, "open TAP %s of instance %s: it is in use by another process: %w", name, i.ID, err).
			WithFix("end the VMM that uses it")
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return mvm.Errorf(mvm.KindInternal, "open TAP %s of instance %s: %w", name, i.ID, err).
			WithFix("run as root, and load the module: modprobe tun")
	}
	return mvm.Errorf(mvm.KindInternal, "open TAP %s of instance %s: %w", name, i.ID, err)
}

// openTAP runs in the namespace. An error closes the file, which removes the TAP.
func (n *Network) openTAP(t network.Tenant, i network.Instance, bridge, owner int) (_ *os.File, err error) {
	name := mvm.TAPName(t.NetID, i.Offset)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("open /dev/net/tun", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, os.NewSyscallError("TUNSETIFF", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, owner); err != nil {
		return nil, os.NewSyscallError("TUNSETOWNER", err)
	}
	index, err := interfaceIndex(name)
	if err != nil {
		return nil, err
	}
	if err := n.attach(t, i, index, bridge); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun ("+name+")"), nil
}

// attach puts the TAP on the bridge as a port that learns nothing and gets nothing
// but what is for it, tells bridge and host where its MAC and address are, and then
// sets it up.
func (n *Network) attach(t network.Tenant, i network.Instance, index, bridge int) error {
	name := mvm.TAPName(t.NetID, i.Offset)
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index}}
	mac := mvm.MAC(t.NetID, i.Offset)
	ip, _ := mvm.SubnetAddr(t.Subnet, i.Offset)
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"turn IPv6 off", func() error { return writeAll(noIPv6(name)) }},
		{"attach to the bridge", func() error { return n.links.LinkSetMasterByIndex(link, bridge) }},
		{"set port flags", func() error { return setPortFlags(index, i.Alone) }},
		{"add MAC to the bridge", func() error {
			return n.links.NeighSet(&netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER | netlink.NTF_STICKY, HardwareAddr: mac})
		}},
		{"add neighbour", func() error {
			return n.links.NeighSet(&netlink.Neigh{LinkIndex: bridge, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac})
		}},
		{"set up", func() error { return n.links.LinkSetUp(link) }},
		{"wait for the bridge", func() error { return n.awaitBridge(bridge) }},
	} {
		if err := step.do(); err != nil {
			return mvm.Errorf(mvm.KindInternal, "%s: %w", step.name, err)
		}
	}
	return nil
}

// awaitBridge waits until the bridge passes on what the host sends. A bridge that had
// no port is woken by a kernel worker and drops packets until then, which would cost
// the first connection to the guest a retransmission of a second. Recent kernels do
// the work when they are asked for the link.
func (n *Network) awaitBridge(index int) error {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(500 * time.Microsecond) {
		link, err := n.links.LinkByIndex(index)
		if err != nil || link.Attrs().OperState == netlink.OperUp {
			return err
		}
		if time.Now().After(deadline) {
			n.log.Warn("bridge does not come up, connections to its guests may be slow at first", "bridge", link.Attrs().Name)
			return nil
		}
	}
}

func writeAll(settings []sysctl) error {
	for _, s := range settings {
		if err := s.write(); err != nil {
			return err
		}
	}
	return nil
}

// setPortFlags turns learning and flooding off on a port, in one request. An isolated port
// reaches none that is isolated too.
func setPortFlags(index int, isolated bool) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for _, flag := range []int{nl.IFLA_BRPORT_LEARNING, nl.IFLA_BRPORT_UNICAST_FLOOD, nl.IFLA_BRPORT_MCAST_FLOOD} {
		port.AddRtAttr(flag, []byte{0})
	}
	on := []byte{0}
	if isolated {
		on[0] = 1
	}
	port.AddRtAttr(nl.IFLA_BRPORT_ISOLATED, on)
	req.AddData(port)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// interfaceIndex asks for one name, without reading the list of interfaces.
func interfaceIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, os.NewSyscallError("look up interface "+name, err)
	}
	return int(ifr.Uint32()), nil
}
