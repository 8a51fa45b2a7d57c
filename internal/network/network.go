// Package network is the contract for a host's tenant networks: the whole desired
// Config in, the kernel made so.
//
// Promises of every Network:
//   - Apply is idempotent: applying the same Config twice changes nothing the second
//     time, and after an error the next Apply repairs.
//   - No tenant reaches another tenant, no guest can send with another's MAC or IP,
//     no guest reaches the host but for what the Config allows. Rules are in force
//     before an interface that they guard exists.
//   - A closed tenant's guests reach no private, link-local or other special address
//     but for what the Config allows; an instance that is alone reaches gateways of its
//     tenant and no other instance, and no other instance reaches it.
//   - Sweep removes what carries mvm's names and belongs to no tenant of the Config.
//
// Concurrency: Apply, Sweep and OpenTAP may be called from many goroutines; they
// take their turns inside.
package network

import (
	"context"
	"net/netip"
	"os"

	"mvm/internal/egress"
)

// Network is a host's tenant networks.
type Network interface {
	// Apply makes the kernel agree with the Config: bridges, addresses, rules, NAT.
	Apply(ctx context.Context, cfg Config) error
	// OpenTAP makes the instance's TAP, attaches it to the tenant's bridge and
	// returns its file. The TAP lives as long as a process holds the file. The
	// instance must be in the Config that was applied last. owner is the uid that may use it.
	OpenTAP(ctx context.Context, tenant string, instance string, owner int) (*os.File, error)
	// Sweep removes bridges, TAPs, tables and namespaces with mvm's names that the
	// Config last applied does not own, and says what it removed. Before the first
	// Apply it refuses, with kind state.
	Sweep(ctx context.Context) ([]string, error)
	// Occupied returns what the host itself has of addresses and routes outside of
	// tenants' networks, so that no tenant is given a subnet that takes them away. It
	// needs no Config, and leaves out the default route.
	Occupied(ctx context.Context) ([]Range, error)
	// Verify compares the kernel with the Config last applied and returns what
	// differs or leaves a way open. It changes nothing.
	Verify(ctx context.Context) ([]Finding, error)
	// Close releases what the Network holds open; the kernel's state stays.
	Close() error
}

// NamedTAPs are networks for VMMs that open their TAPs by name, without rights.
type NamedTAPs interface {
	// KeepTAP is OpenTAP of a TAP that stays when nobody holds it, for owner to open by the
	// name. One that stayed from before is made anew, unless it is held.
	KeepTAP(ctx context.Context, tenant string, instance string, owner int) (name string, err error)
	// DropTAP removes the instance's TAP. One that is not there is no error.
	DropTAP(ctx context.Context, tenant string, instance string) error
}

// Config is everything that the networks of a host should be.
type Config struct {
	Tenants []Tenant
}

// Tenant is one tenant's network.
type Tenant struct {
	ID        string
	NetID     int
	Subnet    netip.Prefix
	Instances []Instance
	// HostPorts are TCP ports on the tenant's gateway address that its guests may reach.
	HostPorts []int
	// Closed: its guests reach private networks only as Egress says. Without it they are
	// like any other destination outside.
	Closed bool `json:",omitempty"`
	// Resolver: its guests ask mvm for names, at port 53 of the gateway address. A closed tenant's
	// guests reach port 53 elsewhere only as Egress says, with it and without.
	Resolver bool `json:",omitempty"`
	// Egress are lists of destinations, for Instance.Egress to choose from. Guests whose list has
	// a name reach outside only what the list has, and what Names.Admit opens.
	Egress [][]egress.Destination `json:",omitempty"`
}

// Instance is one port of a tenant's bridge.
type Instance struct {
	ID     string
	Offset int // gives TAP name, MAC and address
	// Gateway: the instance's role is gateway.
	Gateway bool
	// Alone: of its tenant's instances it reaches gateways alone, and they alone reach it.
	Alone bool `json:",omitempty"`
	// Egress is the number, from 1, of its list in its tenant's Egress; 0: it has none.
	Egress int `json:",omitempty"`
}

// Range is an address range that the host itself uses.
type Range struct {
	Prefix netip.Prefix `json:"prefix"`
	// What names it for people: "the address 10.240.0.9/24 of interface eth0".
	What string `json:"what"`
}

// Overlapping returns the first of the ranges that the subnet overlaps.
func Overlapping(ranges []Range, subnet netip.Prefix) (Range, bool) {
	for _, r := range ranges {
		if r.Prefix.Overlaps(subnet) {
			return r, true
		}
	}
	return Range{}, false
}

// Everything is the length below which a route is for everything, as a default route
// is: what is said for half of all addresses does not mean a tenant's.
const Everything = 8

// Finding is one thing that Verify or a live probe found wrong.
type Finding struct {
	Severity string `json:"severity"` // "error" or "warning"
	What     string `json:"what"`
	Where    string `json:"where"`
	Fix      string `json:"fix"`
}
