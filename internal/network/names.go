package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"mvm"
)

// Bounds of what Names are asked for.
const (
	// MaxAdmissions bounds the addresses of one call of Admit.
	MaxAdmissions = 512
	// MaxTenantAdmissions bounds the addresses that are open for all guests of a tenant: an
	// eighth of what a host has room for, so that one tenant leaves the others some.
	MaxTenantAdmissions = 1 << 14
	// MaxAdmission bounds for how long an address is open.
	MaxAdmission = 2 * time.Hour
)

// Names are networks whose guests ask mvm for names. A guest whose egress has names reaches
// outside only what its egress has and what Admit opened for it; connections that are open go
// on. What was opened ends when the instance's egress changes, or the instance ends.
type Names interface {
	// OpenResolver listens at port 53 of the tenant's gateway address, by UDP and by TCP. The
	// tenant must be in the Config that was applied last, and closed.
	OpenResolver(ctx context.Context, tenant string) (udp, tcp *os.File, err error)
	// Admit opens addresses for the instance, which must be in the Config that was applied last
	// and have names in its egress. When it returns they are open. KindQuota, and none is opened,
	// where that would be more than MaxTenantAdmissions for its tenant.
	Admit(ctx context.Context, tenant, instance string, list []Admission) error
}

// Resolver is the closed tenant of that name, whose guests may ask for names; KindNotFound where
// the Config has none.
func (c Config) Resolver(tenant string) (Tenant, error) {
	i := slices.IndexFunc(c.Tenants, func(t Tenant) bool { return t.ID == tenant && t.Closed })
	if i < 0 {
		return Tenant{}, mvm.Errorf(mvm.KindNotFound, "open resolver: the network's config has no closed tenant %s", tenant)
	}
	return c.Tenants[i], nil
}

// ListenResolver listens at the IPv4 address by UDP and by TCP, in the thread's network namespace.
// Port 0 is for the kernel to choose, for each. The caller closes both files.
func ListenResolver(at netip.AddrPort) (udp, tcp *os.File, err error) {
	u, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = u.Close() }()
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = l.Close() }()
	if udp, err = u.File(); err != nil {
		return nil, nil, err
	}
	if tcp, err = l.File(); err != nil {
		return nil, nil, errors.Join(err, udp.Close())
	}
	return udp, tcp, nil
}

// Admission is an address that is open for a time.
type Admission struct {
	Address netip.Addr    `json:"address"`
	For     time.Duration `json:"for"` // from now; over a second, at most MaxAdmission
}

// CheckAdmissions says what is wrong with the list, with kind invalid.
func CheckAdmissions(list []Admission) error {
	if len(list) > MaxAdmissions {
		return mvm.Errorf(mvm.KindInvalid, "open addresses: %d at once are more than %d", len(list), MaxAdmissions)
	}
	for _, a := range list {
		if !a.Address.Is4() || a.For < time.Second || a.For > MaxAdmission {
			return mvm.Errorf(mvm.KindInvalid, "open address %s for %s: it must be IPv4, for 1s to %s", a.Address, a.For, MaxAdmission)
		}
	}
	return nil
}
