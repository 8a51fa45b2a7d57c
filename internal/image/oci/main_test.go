package oci_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"mvm/internal/image/oci"
)

func TestMain(m *testing.M) {
	oci.RunChild()
	if len(os.Args) == 3 && os.Args[0] == confinedName {
		beConfined(os.Args[1], os.Args[2])
	}
	goleak.VerifyTestMain(m)
}
