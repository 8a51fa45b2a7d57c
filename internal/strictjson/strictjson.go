// Package strictjson reads JSON that must be exactly what is expected.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// Unmarshal reads one JSON value into v. A field that v does not have is an error, and so
// is anything but white space after the value. The caller bounds the size of b. After an
// error v may hold a part of the value.
func Unmarshal(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is data after its JSON")
	}
	return nil
}
