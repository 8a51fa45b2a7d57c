package main

import (
	"log/slog"

	"mvm"
	"mvm/internal/cli"
	"mvm/internal/driver"
)

// newQEMU opens the QEMU driver.
func newQEMU(cli.ServeOptions, *slog.Logger) (driver.Driver, error) {
	return nil, mvm.Errorf(mvm.KindInvalid, "this binary has no driver qemu").WithFix("use --driver fake")
}
