package publish_test

import (
	"net/netip"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/publish"
	"mvm/internal/testenv"
)

// An agent without rights is told what lets it publish a low port.
func TestLowPortWithoutRights(t *testing.T) {
	p := newPublisher(t, publish.Limits{})
	b := binding(newGateway(t, echo), 80)
	b.Publish.Host = netip.MustParseAddrPort("127.0.0.1:81")
	testenv.WithoutRights(t, func() {
		got, err := p.Apply([]publish.Binding{b})
		if err != nil {
			t.Fatal(err)
		}
		if err = got[0].Err; !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "sysctl -w net.ipv4.ip_unprivileged_port_start=81") {
			t.Errorf("got %v, want the sysctl that lets it", err)
		}
	})
}
