package nix_test

import (
	"testing"

	"go.uber.org/goleak"

	"mvm/internal/image/nix/cage"
)

func TestMain(m *testing.M) {
	cage.RunChild()
	goleak.VerifyTestMain(m)
}
