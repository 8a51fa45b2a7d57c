package builtin

import (
	"context"

	"mvm"
)

const (
	rootfsFile = "rootfs.erofs"
	rootfsType = "erofs"
)

type openclawInputs struct{}

func (*openclawInputs) key() string { return "" }

func (b *Builder) openclawInputs(context.Context, func(mvm.Progress)) (*openclawInputs, error) {
	return nil, mvm.Errorf(mvm.KindInvalid, "openclaw: in work")
}

func (b *Builder) rootfsPart(context.Context, *openclawInputs, func(mvm.Progress)) (string, error) {
	return "", nil
}
