// Package filled makes values in which every field is set, for tests of what must lose none.
package filled

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"mvm"
)

// Set sets v, and all that it holds, to values that come from their names: no two fields
// that could be mistaken for each other are the same. Fields in not, by "Type.Field", stay as
// they are.
func Set(t *testing.T, v reflect.Value, name string, not map[string]bool) {
	h := fnv.New32a()
	h.Write([]byte(name))
	n := int64(h.Sum32()%30000) + 1
	if known(v, n) {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text <%d>", n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(n)
	case reflect.Uint8, reflect.Uint16, reflect.Uint64:
		v.SetUint(uint64(n))
	case reflect.Float64:
		v.SetFloat(float64(n))
	case reflect.Array:
		for i := range v.Len() {
			Set(t, v.Index(i), fmt.Sprint(name, i), not)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		Set(t, v.Elem(), name, not)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			Set(t, v.Index(i), fmt.Sprint(name, i), not)
		}
	case reflect.Map:
		key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		Set(t, key, name+" key", not)
		Set(t, val, name+" value", not)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, val)
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Name() + "." + v.Type().Field(i).Name; !not[field] {
				Set(t, v.Field(i), name+" "+field, not)
			}
		}
	default:
		t.Fatalf("the test does not know how to fill a %s", v.Type())
	}
}

// known sets a value of a type that takes certain values only, and reports whether it is one.
func known(v reflect.Value, n int64) bool {
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = time.Unix(n, n).UTC()
	case *netip.Addr:
		*p = netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
	case *netip.AddrPort:
		*p = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}), uint16(n))
	case *netip.Prefix:
		*p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)
	case *mvm.Selector:
		*p = mvm.Selector{Kind: mvm.SelectByKey, From: fmt.Sprintf("header:x-%d", n)}
	case *json.RawMessage:
		*p = json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))
	case *mvm.Asker:
		*p = mvm.Asker{Kind: mvm.AskerGateway, ID: fmt.Sprint(n)}
	default:
		return false
	}
	return true
}
