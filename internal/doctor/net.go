package doctor

import (
	"context"
	"errors"
	"os"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"mvm"
)

// bridge asks the kernel for links of type bridge, and where there is none whether
// the module is there to be loaded.
func (h host) bridge(ctx context.Context) mvm.Finding {
	if _, err := os.Stat(h.path("/sys/module/bridge")); err == nil {
		return found(ok, "the kernel has bridges", "", "")
	}
	links, err := netlink.LinkList()
	if err == nil {
		for _, l := range links {
			if l.Type() == "bridge" {
				return found(ok, "the kernel has bridges", "", "")
			}
		}
	}
	if modprobe := h.look("modprobe"); modprobe != "" {
		if _, err := output(ctx, modprobe, "--dry-run", "bridge"); err == nil {
			return found(ok, "the kernel has bridges, as a module", "", "")
		}
	}
	return found(warning, "the kernel does not seem to have bridges", "", "use a kernel with CONFIG_BRIDGE")
}

func (h host) nftables(context.Context) mvm.Finding {
	c, err := nftables.New()
	if err == nil {
		for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
			if _, e := c.ListTablesOfFamily(family); e != nil {
				err = errors.Join(err, e)
			}
		}
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return found(warning, "can't check nftables: "+err.Error(), "", "run mvm doctor as root")
	case err != nil:
		return found(failure, "nftables don't work: "+err.Error(), "", "use a kernel with CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET and CONFIG_NF_TABLES_BRIDGE")
	}
	return found(ok, "nftables work for inet and bridge", "", "")
}

func (h host) forwarding(context.Context) mvm.Finding {
	v, err := h.read("/proc/sys/net/ipv4/ip_forward")
	switch {
	case err != nil:
		return found(warning, "can't check whether the host forwards packets: "+err.Error(), "", "")
	case v != "1":
		return found(warning, "the host does not forward packets yet, so guests can't reach other networks", "", "the agent turns forwarding on; if something turns it off again: sysctl -w net.ipv4.ip_forward=1")
	}
	return found(ok, "the host forwards packets", "", "")
}
