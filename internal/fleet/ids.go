package fleet

import (
	"encoding/hex"
	"io"

	"mvm"
)

// idTries bounds the ids that are tried: of 32 bits, two in a row are hardly ever taken.
const idTries = 16

// NewID makes an id of the prefix and 8 random hex digits, one that is not taken.
func (f *Fleet) NewID(prefix string, taken func(id string) (bool, error)) (string, error) {
	for range idTries {
		var b [4]byte
		if _, err := io.ReadFull(f.opt.Rand, b[:]); err != nil {
			return "", mvm.Errorf(mvm.KindInternal, "make an id: read random bytes: %w", err)
		}
		id := prefix + hex.EncodeToString(b[:])
		if is, err := taken(id); err != nil || !is {
			return id, err
		}
	}
	return "", mvm.Errorf(mvm.KindInternal, "make an id: %d random ones are all taken", idTries).WithFix("try again")
}
