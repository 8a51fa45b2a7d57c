package driver

import "os"

// Ready is the memory and the device state of one sealed snapshot, decrypted and verified, as an
// agent may keep them in memory for the next wake. Nobody but the agent has had it open. One
// Restore uses it, once: the VMM may write to the file, so nothing is restored from it again.
type Ready struct {
	Snapshot string // Snapshot.ID of the snapshot
	Map      string // the digest of its map: no other snapshot has the same
	MemMiB   int
	Device   []byte
	Bytes    int64 // of memory that it takes
	memory   *os.File
	taken    bool
}

// Over takes the file that has the memory, which r closes from now on.
func (r *Ready) Over(memory *os.File) *Ready {
	r.memory = memory
	return r
}

// Take hands the file over, which the caller closes then; nil where it was taken already.
func (r *Ready) Take() *os.File {
	f := r.memory
	r.memory, r.taken = nil, f != nil || r.taken
	return f
}

// Taken reports that a Restore used it.
func (r *Ready) Taken() bool { return r.taken }

// Close gives the memory back, unless it was taken.
func (r *Ready) Close() error {
	f := r.memory
	if r.memory = nil; f == nil {
		return nil
	}
	return f.Close()
}
