package firecracker

import "time"

// Overlay and CopyData are what merges and copies memory.
var (
	Overlay   = overlay
	CopyData  = copyData
	CopyWhole = copyWhole
)

// AnswerWithin has a self-test wait less.
func AnswerWithin(d *Driver, within time.Duration) { d.answer = within }
