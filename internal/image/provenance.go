package image

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"time"

	"mvm"
)

// ProvenanceName is the file beside image.json that says what the image came from. The
// digest of the image does not cover it.
const ProvenanceName = "provenance.json"

// Provenance is what an image was built from, the last time that it was.
type Provenance struct {
	Version  int               `json:"version"` // of this format: 1
	Request  Request           `json:"request"`
	Resolved string            `json:"resolved"` // the reference, with what it named
	Key      string            `json:"key"`
	Inputs   map[string]string `json:"inputs,omitempty"`
	Built    time.Time         `json:"built"`
	Build    string            `json:"build,omitempty"` // id
	Log      string            `json:"log,omitempty"`   // path of what the build said, while it is kept
}

// maxProvenance bounds the file.
const maxProvenance = 256 << 10

// Provenance returns what the image was built from. KindNotFound: an older mvm has built it.
func (i Image) Provenance() (p Provenance, err error) {
	f, err := os.Open(filepath.Join(i.Dir, ProvenanceName))
	if os.IsNotExist(err) {
		return p, mvm.Errorf(mvm.KindNotFound, "image %s has no provenance: an older mvm has built it", i.Digest)
	}
	if err != nil {
		return p, err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxProvenance)).Decode(&p); err != nil {
		return p, mvm.Errorf(mvm.KindInternal, "read %s: %w", f.Name(), err)
	}
	return p, nil
}
