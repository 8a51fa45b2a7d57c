package qemu_test

import (
	"fmt"

	"mvm/internal/driver/drivertest"
)

// seams are the driver's named operations by the call that they are within.
var seams = map[string][]string{
	"Start":    {"start.memory", "start.exec", "start.record", "start.qmp", "start.cont"},
	"Restore":  {"restore.memory", "start.exec", "start.record", "start.qmp", "restore.load", "restore.pages"},
	"Pause":    {"pause.stop"},
	"Resume":   {"resume.cont"},
	"Snapshot": {"snapshot.create", "snapshot.device", "snapshot.pages", "snapshot.sync", "snapshot.commit"},
	"Kill":     {"kill.signal"},
	"Recover":  {"recover.find"},
}

func (h *host) faults() []drivertest.Fault {
	var out []drivertest.Fault
	for call, ops := range seams {
		for _, op := range ops {
			out = append(out, drivertest.Fault{Call: call, Name: op, Arm: func(err error) func() {
				h.seam = func(at string) error {
					if at == op {
						return fmt.Errorf("%s: %w", op, err)
					}
					return nil
				}
				return func() { h.seam = nil }
			}})
		}
	}
	return out
}
