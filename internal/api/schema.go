package api

import (
	"encoding/json"
	"mvm/internal/api/wire"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"mvm"
	"mvm/internal/build"
)

// object is a JSON object of the schema.
type object map[string]any

// schemas are the types of the API as JSON schema, made of the Go types of the wire. A
// type has two: what a request may say (its name and "Input"), where unknown fields are
// refused and most may be left out, and what an answer says, where what is always there
// is required and a later version may add fields.
type schemas struct {
	defs object
	in   bool
}

// ref describes a type, and its structs once among the definitions.
func (s *schemas) ref(t reflect.Type) object {
	if o := wellKnown(t); o != nil {
		return o
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.ref(t.Elem())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Uint64, reflect.Uint, reflect.Uint16, reflect.Uint32:
		return object{"type": "integer", "format": "int64", "minimum": 0}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		return stringOf(t)
	case reflect.Slice:
		return object{"type": "array", "items": s.ref(t.Elem())}
	case reflect.Array:
		return object{"type": "array", "items": s.ref(t.Elem()), "minItems": t.Len(), "maxItems": t.Len()}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.nullable(t.Elem(), s.ref(t.Elem()))}
	case reflect.Struct:
		return s.structRef(t)
	}
	return object{} // anything
}

// wellKnown are types that are not on the wire as their kind suggests.
func wellKnown(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[time.Duration]():
		return object{"type": "integer", "format": "int64", "description": "nanoseconds"}
	case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.AddrPort](), reflect.TypeFor[netip.Prefix](), reflect.TypeFor[mvm.Asker]():
		return object{"type": "string"}
	case reflect.TypeFor[[]byte]():
		return object{"type": "string", "format": "byte"}
	case reflect.TypeFor[json.RawMessage]():
		return object{"type": "object"}
	case reflect.TypeFor[mvm.Selector]():
		one := func(name string, v object) object {
			return object{"type": "object", "properties": object{name: v}, "required": []string{name}, "additionalProperties": false}
		}
		return object{"oneOf": []object{{"type": "string", "enum": []string{string(mvm.SelectAny), string(mvm.SelectLeastConnections)}},
			one("by_ip", object{"type": "string"}), one("by_key", one("from", object{"type": "string"}))}}
	}
	return nil
}

// stringOf describes a string type, with its values where they are a closed set.
func stringOf(t reflect.Type) object {
	o := object{"type": "string"}
	if values := closedSets()[t]; values != nil {
		o["enum"] = values
	}
	return o
}

// closedSets are the string types that have these values only.
func closedSets() map[reflect.Type][]string {
	var kinds []string
	for k := range kindStatus() {
		kinds = append(kinds, string(k))
	}
	slices.Sort(kinds)
	return map[reflect.Type][]string{
		reflect.TypeFor[mvm.Kind]():    kinds,
		reflect.TypeFor[mvm.Role]():    texts(mvm.RoleGateway, mvm.RoleBuilder, mvm.RoleWorker, mvm.RoleIMessage),
		reflect.TypeFor[mvm.OpKind]():  texts(mvm.OpCreate, mvm.OpStart, mvm.OpStop, mvm.OpWarm, mvm.OpResume, mvm.OpSleep, mvm.OpWake, mvm.OpDestroy, mvm.OpRestart, mvm.OpRestore),
		reflect.TypeFor[build.State](): texts(build.States()...),
		reflect.TypeFor[mvm.State]():   texts(mvm.StateCreated, mvm.StateReady, mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping, mvm.StateStopped, mvm.StateDestroyed),
	}
}

func texts[S ~string](values ...S) (out []string) {
	for _, v := range values {
		out = append(out, string(v))
	}
	return out
}

// nullable lets null stand where Go writes it, or takes it, for nothing.
func (s *schemas) nullable(t reflect.Type, o object) object {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if o["$ref"] != nil {
			return object{"type": "object", "allOf": []object{o}, "nullable": true}
		}
		o["nullable"] = true
	}
	return o
}

// structRef refers to the definition of a struct, which it makes when it is new.
func (s *schemas) structRef(t reflect.Type) object {
	name := nameOf(t)
	if s.in {
		name += "Input"
	}
	ref := object{"$ref": "#/components/schemas/" + name}
	if s.defs[name] != nil {
		return ref
	}
	def := object{"type": "object"}
	s.defs[name] = def // before its fields, which may refer to it
	props, required := object{}, []string{}
	s.fields(t, props, &required)
	def["properties"] = props
	if s.in {
		def["additionalProperties"] = false
		required = needed()[t]
	}
	if len(required) > 0 {
		def["required"] = required
	}
	return ref
}

// fields describes the fields of a struct, those of embedded ones among them.
func (s *schemas) fields(t reflect.Type, props object, required *[]string) {
	for f := range fieldsOf(t) {
		tag, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-" || !f.IsExported():
			continue
		case f.Anonymous && tag == "" && f.Type.Kind() == reflect.Struct:
			s.fields(f.Type, props, required)
			continue
		case tag == "":
			tag = f.Name
		}
		always := !strings.Contains(opts, "omitempty") && !strings.Contains(opts, "omitzero")
		o := s.ref(f.Type)
		if s.in || always {
			o = s.nullable(f.Type, o)
		}
		props[tag] = o
		if always {
			*required = append(*required, tag)
		}
	}
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for n := range t.NumField() {
			if !yield(t.Field(n)) {
				return
			}
		}
	}
}

// needed are the fields that a request must have.
func needed() map[reflect.Type][]string {
	return map[reflect.Type][]string{
		reflect.TypeFor[wire.TenantSpec](): {"id"},
		reflect.TypeFor[wire.PoolSpec]():   {"id", "role", "profile", "flake", "resources"},
		reflect.TypeFor[wire.OpRequest]():  {"op"},
		reflect.TypeFor[wire.ExecSpec]():   {"argv"},
		reflect.TypeFor[wire.CopySpec]():   {"path"},
		reflect.TypeFor[deployRequest]():   {"deployment"},
		reflect.TypeFor[wire.Deployment](): {"tenant"},
		reflect.TypeFor[secretsRequest]():  {"secrets"},
	}
}

// nameOf is the name of a type's definition.
func nameOf(t reflect.Type) string {
	r := []rune(t.Name())
	r[0] = unicode.ToUpper(r[0])
	return string(r)
}
