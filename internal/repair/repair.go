// Package repair decides what to do about an instance whose operation did not end: the
// agent was killed, or a step failed and could not be taken back. It is pure: what was found
// goes in, what to do comes out. Recovery after a start of the agent and the operations of an
// agent that runs both ask it, so that they can't disagree.
//
// The table, first match wins. "rises" is start, wake or resume:
//
//	state             operation               VMM                      do            then
//	any               stop, restart, destroy  any                      Finish
//	created           create                  any                      Finish
//	sleeping          sleep                   any                      Finish
//	any               restore                 any                      TakeBack
//	running, warm     any                     gone                     Stop          start
//	running, warm     warm, not by policy     there                    Conform       warm
//	running, warm     any                     there                    Conform
//	running, warm     none                    not as the state says    Conform
//	running, warm     none                    as the state says        Keep
//	sleeping          rises                   runs, snapshot consumed  OpenGate      wake
//	sleeping          rises                   paused, snapshot consumed ReleaseWhole wake
//	sleeping          rises                   any other                Release       wake
//	other             rises                   any                      Release       start
//	any other                                                          Release
package repair

import "mvm"

// Found is what there is of an instance.
type Found struct {
	State mvm.State
	// Cut is the operation that its record says is under way, and nobody works on; "" where
	// there is none.
	Cut      mvm.OpKind
	ByPolicy bool // Cut was asked for by the policy, which decides anew
	// Alive: its VMM runs. Paused: the VMM's vCPUs stand still.
	Alive, Paused bool
	// Consumed: vCPUs were about to run from its snapshot.
	Consumed bool
}

// FoundOf is what the record says; of the VMM it says nothing.
func FoundOf(i mvm.Instance) Found {
	f := Found{State: i.State, Consumed: i.Snapshot != nil && i.Snapshot.Consumed}
	if i.Op != nil {
		f.Cut, f.ByPolicy = i.Op.Kind, i.Op.By.Kind == mvm.AskerPolicy
	}
	return f
}

// Do is what to do with what there is, before anything else is done with the instance.
type Do string

// What to do.
const (
	// Keep: the instance is as its record says.
	Keep Do = "keep"
	// Finish the operation: it only goes forward.
	Finish Do = "finish"
	// TakeBack the operation: move the files that it moved back, and clear the intent.
	TakeBack Do = "take back"
	// Conform: the VMM runs, and is paused or resumed, behind the gate, as the state says.
	Conform Do = "conform"
	// Stop the instance and record it: its memory is gone.
	Stop Do = "stop"
	// OpenGate: the guest runs from its snapshot; only its gate was not opened.
	OpenGate Do = "open gate"
	// Release what there is of a VMM, then clear the intent: until the VMM is gone it counts.
	Release Do = "release"
	// ReleaseWhole is Release, and the snapshot is whole again: no vCPU ran from it.
	ReleaseWhole Do = "release, snapshot whole"
)

// Verdict is a row of the table.
type Verdict struct {
	Do Do
	// Then is the operation to begin afterwards where nothing else is asked for, so that the
	// instance gets where it was going; "" for none.
	Then mvm.OpKind
}

// Decide looks up what to do.
func Decide(f Found) Verdict {
	switch {
	case OnlyForward(f.Cut), f.Cut == mvm.OpCreate && f.State == mvm.StateCreated, f.Cut == mvm.OpSleep && f.State == mvm.StateSleeping:
		return Verdict{Do: Finish}
	case f.Cut == mvm.OpRestore:
		return Verdict{Do: TakeBack}
	case f.State.HoldsMemory():
		return awake(f)
	case f.Cut.Rises():
		return rising(f)
	}
	return Verdict{Do: Release}
}

// OnlyForward reports whether the operation, once begun, is finished whatever there is of
// the instance.
func OnlyForward(op mvm.OpKind) bool {
	return op == mvm.OpStop || op == mvm.OpRestart || op == mvm.OpDestroy
}

// awake: the record says that the instance holds memory.
func awake(f Found) Verdict {
	switch {
	case !f.Alive:
		return Verdict{Stop, mvm.OpStart}
	case f.Cut == mvm.OpWarm && !f.ByPolicy:
		return Verdict{Conform, mvm.OpWarm}
	case f.Cut != "" || f.Paused != (f.State == mvm.StateWarm):
		return Verdict{Do: Conform}
	}
	return Verdict{Do: Keep}
}

// rising: the record says that the instance was on its way up from rest.
func rising(f Found) Verdict {
	switch {
	case f.State != mvm.StateSleeping:
		return Verdict{Release, mvm.OpStart}
	case !f.Consumed || !f.Alive:
		return Verdict{Release, mvm.OpWake}
	case f.Paused:
		return Verdict{ReleaseWhole, mvm.OpWake}
	}
	return Verdict{OpenGate, mvm.OpWake}
}
