package oci

import (
	"context"

	"mvm"
	"mvm/internal/image/flatten"
)

// Unpack makes the root filesystem of a stored image for the architecture, and adds nothing to it. It returns
// how many bytes its files have.
func Unpack(ctx context.Context, path, arch, to string) (int64, error) {
	src, err := openStored(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = src.Close() }()
	p, err := pull(ctx, src, arch)
	if err != nil {
		return 0, err
	}
	a, err := unpack(ctx, src, p, order{Limits: flatten.DefaultLimits()}, to, func(mvm.Progress) {})
	return a.Bytes, err
}

// Confine is what the process that unpacks layers does first.
func Confine() error { return confine(1 << 20) }
