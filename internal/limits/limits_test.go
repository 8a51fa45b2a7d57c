package limits_test

import (
	"reflect"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/limits"
)

// Every field is a setting, by the name that it has in JSON, and has a default that is
// allowed for any instance.
func TestSettingsAreTheFields(t *testing.T) {
	typ := reflect.TypeFor[mvm.Limits]()
	all := limits.Settings()
	if len(all) != typ.NumField() {
		t.Fatalf("%d settings of %d fields", len(all), typ.NumField())
	}
	for n, s := range all {
		name, _, _ := strings.Cut(typ.Field(n).Tag.Get("json"), ",")
		var l mvm.Limits
		*s.At(&l) = 7
		if s.Name != name || reflect.ValueOf(l).Field(n).Int() != 7 {
			t.Errorf("setting %q sets %+v, want field %s alone", s.Name, l, name)
		}
		for _, vcpus := range []int{1, mvm.MaxVCPUs} {
			if d := s.Default(vcpus); d < 1 || d > s.Max {
				t.Errorf("%s with %d vCPUs is %d, which is not in 1..%d", s.Name, vcpus, d, s.Max)
			}
		}
	}
	if got := limits.Of(mvm.Limits{}, 2); got.CPUPercent != 250 || got.CPUWeight != 200 || limits.Check(got) != nil {
		t.Errorf("the limits of 2 vCPUs are %+v, %v", got, limits.Check(got))
	}
	if got := limits.Of(mvm.Limits{CPUPercent: 30}, 2); got.CPUPercent != 30 || got.CPUWeight != 200 {
		t.Errorf("the limits are %+v, want the one that is set and defaults", got)
	}
}

func TestSet(t *testing.T) {
	for text, want := range map[string]int{"cpu_percent=50": 50, "cpu_percent=default": 0} {
		l := mvm.Limits{CPUPercent: 9}
		if err := limits.Set(&l, text); err != nil || l.CPUPercent != want {
			t.Errorf("%s: %+v, %v", text, l, err)
		}
	}
	for _, text := range []string{"", "cpu_percent", "cpu_percent=", "cpu_percent=0", "cpu_percent=-1", "cpu_percent=6451", "cpu_percent=1.5", "CPU_PERCENT=5", "cpu=5"} {
		l := mvm.Limits{CPUPercent: 9}
		if err := limits.Set(&l, text); !mvm.IsKind(err, mvm.KindInvalid) || l.CPUPercent != 9 {
			t.Errorf("%q: %+v, %v; want it refused", text, l, err)
		}
	}
	for _, l := range []mvm.Limits{{CPUPercent: -1}, {CPUWeight: 10_001}} {
		if err := limits.CheckPool(mvm.PoolSpec{ID: "p", Limits: l}); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%+v: %v, want it refused", l, err)
		}
	}
}
