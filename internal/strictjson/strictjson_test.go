package strictjson_test

import (
	"testing"

	"mvm/internal/strictjson"
)

func TestUnmarshal(t *testing.T) {
	for in, ok := range map[string]bool{
		`{"a":1}`:          true,
		" {\"a\":1}\n\t ":  true,
		`{}`:               true,
		``:                 false,
		` `:                false,
		`{"a":1`:           false,
		`{"a":"1"}`:        false,
		`{"b":1}`:          false,
		`{"a":1,"b":1}`:    false,
		`{"a":1}{}`:        false,
		`{"a":1} {"a":1}`:  false,
		`{"a":1}}`:         false,
		`{"a":1}]`:         false,
		`{"a":1},`:         false,
		`{"a":1}garbage`:   false,
		"{\"a\":1}\x00":    false,
		`[{"a":1}]`:        false,
		`{"a":1e400}`:      false,
		`{"a":1} // notes`: false,
	} {
		var v struct {
			A int `json:"a"`
		}
		err := strictjson.Unmarshal([]byte(in), &v)
		if (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
		if ok && in != `{}` && v.A != 1 {
			t.Errorf("%q: read %+v", in, v)
		}
	}
}
