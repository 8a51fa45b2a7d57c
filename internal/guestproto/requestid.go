package guestproto

import (
	"reflect"

	"mvm"
)

// WithID returns the request with the id of the host's request that led to it, so that
// the guest's log can be read beside the host's. Variants without fields have no place
// for it, and stay as they are.
func (r Request) WithID(id string) Request {
	v := reflect.ValueOf(&r).Elem()
	i, n := setField(v)
	if id == "" || n != 1 || v.Field(i).Kind() != reflect.Pointer {
		return r
	}
	fields := reflect.New(v.Field(i).Type().Elem()) // the caller's stay as they are
	fields.Elem().Set(v.Field(i).Elem())
	if f := fields.Elem().FieldByName("RequestID"); f.IsValid() {
		f.SetString(id)
		v.Field(i).Set(fields)
	}
	return r
}

// ID returns the id that came with the request, "" where there is none that is valid.
func (r Request) ID() string { return idOf(reflect.ValueOf(r)) }

// ID returns the id that came with the request, "" where there is none that is valid:
// it is a guest's word.
func (r HostRequest) ID() string { return idOf(reflect.ValueOf(r)) }

func idOf(v reflect.Value) string {
	i, n := setField(v)
	if n != 1 || v.Field(i).Kind() != reflect.Pointer {
		return ""
	}
	f := v.Field(i).Elem().FieldByName("RequestID")
	if !f.IsValid() {
		return ""
	}
	return mvm.RequestID(f.String())
}
