// Package fake is a driver without VMMs: everything that a real one does happens
// in memory, with a guest that speaks the guest channel, failures and latencies by
// the name of the operation, and a record of every violation of the contract.
//
// A Host plays the machine below the agent. VMMs live in it, so they survive an
// agent: a new Driver on the same Host recovers them. A VMM is also written to a
// file in its RunDir at every change, so it survives a process that is killed: a
// new Host finds it there, and the guest goes on where it was.
//
// What a guest keeps, and where:
//
//	memory  files that Exec writes, boot id, configuration  <RunDir>/fake-vmm.json while there is a VMM;
//	                                                        in the snapshot, sealed, from then on
//	secrets                                                 <RunDir>/fake-vmm.json only: a wake brings them anew
//	disk    files below /data                               <Dir>/fake-disk.json
//
// Spec.Memory is there while a guest has run since its last snapshot, and has nothing in it.
//
// No goroutine runs for a VMM that nobody talks to, so thousands can be simulated.
// Connections are pipes in memory and all times come from package time, so it
// works under testing/synctest.
package fake

// Op names an operation on which Options.Fail and Options.Latency act.
type Op string

// The operations. The ones with a dot are parts: they fail half-way.
const (
	OpInfo           Op = "info"
	OpStart          Op = "start"
	OpStartBoot      Op = "start.boot" // files are written, the VMM is not there yet
	OpRestore        Op = "restore"
	OpRestoreLoad    Op = "restore.load" // the files were read, the VMM is not there yet
	OpRecover        Op = "recover"
	OpDestroy        Op = "destroy"
	OpDestroyFiles   Op = "destroy.files" // the VMM is gone, its files are not
	OpSweep          Op = "sweep"
	OpPause          Op = "pause"
	OpResume         Op = "resume"
	OpSnapshot       Op = "snapshot"
	OpSnapshotMemory Op = "snapshot.memory"
	OpSnapshotState  Op = "snapshot.state" // the files are written, and not durable
	OpPowerdown      Op = "powerdown"
	OpLimit          Op = "limit"
	OpStartLimit     Op = "start.limit" // a VMM that starts or wakes runs without its limits when it fails
	OpKill           Op = "kill"
	OpDial           Op = "dial"
	OpStats          Op = "stats"
	OpPaused         Op = "paused"
)

// Ops returns every operation, to fail one after the other.
func Ops() []Op {
	return []Op{OpInfo, OpStart, OpStartBoot, OpRestore, OpRestoreLoad, OpRecover, OpDestroy, OpDestroyFiles,
		OpSweep, OpPause, OpResume, OpSnapshot, OpSnapshotMemory, OpSnapshotState, OpPowerdown, OpLimit, OpStartLimit, OpKill, OpDial,
		OpStats, OpPaused}
}
