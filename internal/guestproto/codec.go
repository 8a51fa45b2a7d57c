package guestproto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"mvm"
)

// VariantError says that a message is not exactly one known variant. A server
// answers it with Error and goes on with the next frame.
type VariantError struct {
	Message string // "Request", "Response", "HostRequest" or "HostResponse"
	Variant string // as received, clipped; may be empty
	Problem string
}

// NoVariant is the problem of a request that the other side, of an older version, does
// not know.
const NoVariant = "no such variant"

// Error describes the problem.
func (e *VariantError) Error() string {
	return fmt.Sprintf("%s %q: %s", e.Message, e.Variant, e.Problem)
}

// MarshalJSON writes the externally tagged form; exactly one field must be set.
func (r Request) MarshalJSON() ([]byte, error) { return marshalVariant(r) }

// UnmarshalJSON reads the externally tagged form, see Decode.
func (r *Request) UnmarshalJSON(b []byte) error { return unmarshalVariant(b, r) }

// MarshalJSON writes the externally tagged form; exactly one field must be set.
func (r Response) MarshalJSON() ([]byte, error) { return marshalVariant(r) }

// UnmarshalJSON reads the externally tagged form, see Decode.
func (r *Response) UnmarshalJSON(b []byte) error { return unmarshalVariant(b, r) }

// MarshalJSON writes the externally tagged form; exactly one field must be set.
func (r HostRequest) MarshalJSON() ([]byte, error) { return marshalVariant(r) }

// UnmarshalJSON reads the externally tagged form, see Decode.
func (r *HostRequest) UnmarshalJSON(b []byte) error { return unmarshalVariant(b, r) }

// MarshalJSON writes the externally tagged form; exactly one field must be set.
func (r HostResponse) MarshalJSON() ([]byte, error) { return marshalVariant(r) }

// UnmarshalJSON reads the externally tagged form, see Decode.
func (r *HostResponse) UnmarshalJSON(b []byte) error { return unmarshalVariant(b, r) }

// MarshalJSON writes the one field that must be set.
func (f ExecFrame) MarshalJSON() ([]byte, error) {
	type plain ExecFrame
	if _, n := setField(reflect.ValueOf(f.withoutEmpty())); n != 1 {
		return nil, &VariantError{Message: "ExecFrame", Problem: fmt.Sprintf("%d fields are set, want one", n)}
	}
	return json.Marshal(plain(f))
}

// UnmarshalJSON reads a frame with exactly one field, its data within MaxExecData.
func (f *ExecFrame) UnmarshalJSON(b []byte) error {
	type plain ExecFrame
	var p plain
	if _, err := scan(b); err != nil {
		return err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	p = plain(ExecFrame(p).withoutEmpty())
	if _, n := setField(reflect.ValueOf(p)); n != 1 {
		return &VariantError{Message: "ExecFrame", Problem: fmt.Sprintf("%d fields are set, want one", n)}
	}
	if size := max(len(p.Stdin), len(p.Stdout), len(p.Stderr)); size > MaxExecData {
		return &VariantError{Message: "ExecFrame", Problem: fmt.Sprintf("%d bytes of data are more than %d", size, MaxExecData)}
	}
	*f = ExecFrame(p)
	return nil
}

// withoutEmpty makes data that is there but empty count as not set: on the wire it
// is not there.
func (f ExecFrame) withoutEmpty() ExecFrame {
	for _, data := range []*[]byte{&f.Stdin, &f.Stdout, &f.Stderr} {
		if len(*data) == 0 {
			*data = nil
		}
	}
	return f
}

// configureWire has a table that asks for authentication where a gateway of an mvm before
// that does not look. It gets no routes then: it would not guard them.
type configureWire struct {
	plainConfigure
	Guarded *mvm.RoutingTable `json:"guarded_routes,omitempty"`
}

type plainConfigure Configure

// MarshalJSON writes routes that ask for authentication under a name of their own.
func (c Configure) MarshalJSON() ([]byte, error) {
	w := configureWire{plainConfigure: plainConfigure(c)}
	if c.Routes != nil && c.Routes.Guards() {
		w.Routes, w.Guarded = nil, c.Routes
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Configure) UnmarshalJSON(b []byte) error {
	var w configureWire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	if w.Guarded != nil {
		w.Routes = w.Guarded
	}
	*c = Configure(w.plainConfigure)
	return nil
}

// Variant returns the name of the one field that is set in a Request, Response,
// HostRequest or HostResponse, "" when there is not exactly one.
func Variant(message any) string {
	v := reflect.Indirect(reflect.ValueOf(message))
	if i, n := setField(v); n == 1 {
		return v.Type().Field(i).Name
	}
	return ""
}

// Encode returns the JSON of a message or ExecFrame. KindInvalid when it is not
// exactly one variant or larger than a frame.
func Encode(message any) ([]byte, error) {
	b, err := json.Marshal(message)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "encode %T: %w", message, err)
	}
	if len(b) > MaxFrame {
		return nil, mvm.Errorf(mvm.KindInvalid, "encode %T: %d bytes are more than a frame of %d", message, len(b), MaxFrame)
	}
	return b, nil
}

// Decode reads a message or ExecFrame from JSON. It refuses, with KindInvalid,
// anything but one value of exactly one known variant: trailing bytes, an object
// that names a key twice, nesting deeper than maxDepth. Fields that this version
// does not know are ignored, because a guest that sleeps through an upgrade wakes
// to a newer host.
func Decode(b []byte, message any) error {
	if err := json.Unmarshal(b, message); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "decode %T: %w", message, err)
	}
	return nil
}

// setField returns the index of the last field that is set, and how many are.
func setField(v reflect.Value) (index, n int) {
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			index = i
			n++
		}
	}
	return index, n
}

func marshalVariant(message any) ([]byte, error) {
	v := reflect.ValueOf(message)
	i, n := setField(v)
	if n != 1 {
		return nil, &VariantError{Message: v.Type().Name(), Problem: fmt.Sprintf("%d variants are set, want one", n)}
	}
	name, err := json.Marshal(v.Type().Field(i).Name)
	if err != nil || v.Field(i).Kind() == reflect.Bool {
		return name, err
	}
	fields, err := json.Marshal(v.Field(i).Interface())
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{{'{'}, name, {':'}, fields, {'}'}}, nil), nil
}

// unmarshalVariant sets *message, a pointer to one of the four message types. It
// leaves the message as it was when it fails.
func unmarshalVariant(b []byte, message any) error {
	dst := reflect.ValueOf(message).Elem()
	name, fields, err := splitVariant(b)
	if err != nil {
		return &VariantError{Message: dst.Type().Name(), Variant: clip(name), Problem: err.Error()}
	}
	fresh := reflect.New(dst.Type()).Elem()
	field := fresh.FieldByName(name)
	switch {
	case !field.IsValid():
		err = errors.New(NoVariant)
	case field.Kind() == reflect.Bool && fields != nil:
		err = fmt.Errorf("the variant has no fields")
	case field.Kind() != reflect.Bool && fields == nil:
		err = fmt.Errorf("the variant needs fields")
	case field.Kind() == reflect.Bool:
		field.SetBool(true)
	default:
		field.Set(reflect.New(field.Type().Elem()))
		err = json.Unmarshal(fields, field.Interface())
	}
	if err != nil {
		return &VariantError{Message: dst.Type().Name(), Variant: clip(name), Problem: err.Error()}
	}
	dst.Set(fresh)
	return nil
}

// splitVariant takes the name and, for an object, its one value apart.
func splitVariant(b []byte) (name string, fields []byte, err error) {
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '"' {
		err = json.Unmarshal(b, &name)
		return name, nil, err
	}
	found, err := scan(b)
	switch {
	case err != nil:
	case len(b) == 0 || b[0] != '{':
		err = fmt.Errorf("want a string or an object with one key")
	case found.keys != 1:
		err = fmt.Errorf("%d keys, want one", found.keys)
	case found.value >= len(b):
		err = fmt.Errorf("the object does not end")
	default:
		fields = bytes.TrimSpace(b[found.value : len(b)-1])
		if len(fields) == 0 || fields[0] != '{' {
			err = fmt.Errorf("the fields are no object")
		}
	}
	return found.key, fields, err
}

// clip bounds text from a peer before it goes into an error.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
