package desired

import (
	"bytes"
	"encoding/json"

	"mvm"
)

// Encode returns the document as indented JSON that ends with a newline. The same
// document always gives the same bytes. KindInvalid where Decode would not take them:
// the document is checked, and has to fit into MaxBytes.
func (d Document) Encode() ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(d); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "encode desired state: %w", err)
	}
	if b.Len() > MaxBytes {
		return nil, mvm.Errorf(mvm.KindInvalid, "encode desired state: it has %d bytes, more than %d", b.Len(), MaxBytes)
	}
	return b.Bytes(), nil
}
