package remote_test

import (
	"strings"
	"testing"

	"mvm/internal/remote"
	"mvm/internal/testenv"
)

// An agent without rights is told what lets it listen on a low port.
func TestLowPortWithoutRights(t *testing.T) {
	testenv.WithoutRights(t, func() {
		_, err := remote.Listen(remote.Options{Listen: "127.0.0.1:443"})
		if err == nil || !strings.Contains(err.Error(), "net.ipv4.ip_unprivileged_port_start") {
			t.Errorf("got %v, want the sysctl that lets it", err)
		}
	})
}
