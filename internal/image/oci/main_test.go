package oci_test

import (
	"testing"

	"go.uber.org/goleak"

	"mvm/internal/image/oci"
)

func TestMain(m *testing.M) {
	oci.RunChild()
	goleak.VerifyTestMain(m)
}
