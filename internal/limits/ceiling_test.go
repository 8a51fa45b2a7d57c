package limits_test

import (
	"strings"
	"testing"

	"mvm"
	"mvm/internal/limits"
)

func pool(vcpus int, l mvm.Limits) mvm.PoolSpec {
	return mvm.PoolSpec{ID: "p", Resources: mvm.Resources{VCPUs: vcpus}, Limits: l}
}

// The lower of the two is in force, the defaults included.
func TestInForce(t *testing.T) {
	for what, c := range map[string]struct {
		pool, ceilings mvm.Limits
		want           int
	}{
		"neither": {want: 250}, "the pool is lower": {mvm.Limits{CPUPercent: 70}, mvm.Limits{CPUPercent: 80}, 70},
		"the ceiling is lower":     {mvm.Limits{CPUPercent: 90}, mvm.Limits{CPUPercent: 80}, 80},
		"the default is too high":  {mvm.Limits{}, mvm.Limits{CPUPercent: 80}, 80},
		"above the default":        {mvm.Limits{CPUPercent: 900}, mvm.Limits{}, 250},
		"the ceiling allows more":  {mvm.Limits{CPUPercent: 900}, mvm.Limits{CPUPercent: 1000}, 900},
		"no ceiling":               {mvm.Limits{CPUPercent: 900}, limits.None(), 900},
		"a ceiling raises nothing": {mvm.Limits{}, mvm.Limits{CPUPercent: 1000}, 250},
	} {
		if got := limits.InForce(c.pool, c.ceilings, 2).CPUPercent; got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
}

func TestCheckAsked(t *testing.T) {
	asks := func(n int) mvm.Limits { return mvm.Limits{CPUPercent: n} }
	was := pool(2, asks(300))
	for what, c := range map[string]struct {
		want     mvm.PoolSpec
		was      *mvm.PoolSpec
		ceilings mvm.Limits
		refused  bool
	}{
		"the default":             {pool(2, mvm.Limits{}), nil, asks(50), false},
		"at the default ceiling":  {pool(2, asks(250)), nil, mvm.Limits{}, false},
		"above it":                {pool(2, asks(251)), nil, mvm.Limits{}, true},
		"more vCPUs":              {pool(3, asks(350)), nil, mvm.Limits{}, false},
		"at a ceiling":            {pool(2, asks(400)), nil, asks(400), false},
		"above a ceiling":         {pool(2, asks(401)), nil, asks(400), true},
		"no ceiling":              {pool(2, asks(6450)), nil, limits.None(), false},
		"it was above and stays":  {pool(2, asks(300)), &was, asks(100), false},
		"it was above, and falls": {pool(1, asks(200)), &was, asks(100), false},
		"it was above and rises":  {pool(2, asks(301)), &was, asks(100), true},
	} {
		err := limits.CheckAsked("acme", c.want, c.was, c.ceilings)
		if refused := mvm.IsKind(err, mvm.KindQuota); refused != c.refused || !refused && err != nil {
			t.Errorf("%s: %v, want refused %v", what, err, c.refused)
		}
		if err != nil && !strings.Contains(err.Error(), "pool acme/p: limit cpu_percent") {
			t.Errorf("%s: %v does not say what is refused", what, err)
		}
	}
}

func TestSetCeiling(t *testing.T) {
	for text, want := range map[string]int{"cpu_weight=50": 50, "cpu_weight=default": 0, "cpu_weight=none": 10_000} {
		l := mvm.Limits{CPUWeight: 9}
		if err := limits.SetCeiling(&l, text); err != nil || l.CPUWeight != want {
			t.Errorf("%s: %+v, %v", text, l, err)
		}
	}
	for _, text := range []string{"none", "cpu=none", "=none", "cpu_weight=10001", "cpu_weight=0"} {
		l := mvm.Limits{CPUWeight: 9}
		if err := limits.SetCeiling(&l, text); !mvm.IsKind(err, mvm.KindInvalid) || l.CPUWeight != 9 {
			t.Errorf("%q: %+v, %v; want it refused", text, l, err)
		}
	}
	if err := limits.CheckCeilings("acme", mvm.Limits{CPUWeight: 10_001}); !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "acme: ceiling") {
		t.Errorf("a ceiling above the highest value: %v", err)
	}
}

// Clients of a tenant change what an operator has bounded, and nothing else.
func TestSettable(t *testing.T) {
	set := mvm.Limits{CPUPercent: 100}
	for what, c := range map[string]struct {
		want, ceilings mvm.Limits
		ok             bool
	}{
		"nothing changes": {mvm.Limits{}, mvm.Limits{}, true}, "the default ceiling": {set, mvm.Limits{}, false},
		"no ceiling": {set, limits.None(), false}, "a ceiling": {set, set, true},
		"the ceiling of another": {mvm.Limits{CPUPercent: 5, CPUWeight: 5}, set, false},
	} {
		if got := limits.Settable(mvm.Limits{}, c.want, c.ceilings); got != c.ok {
			t.Errorf("%s: %v, want %v", what, got, c.ok)
		}
	}
}
