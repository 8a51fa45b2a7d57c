package limits

import (
	"fmt"
	"strings"

	"mvm"
)

// A tenant's ceilings are the highest limits that its pools may ask for. They are Limits
// whose zero fields are the defaults of an instance: what Of makes of them.

// None are ceilings that refuse nothing: each is the highest value of its limit.
func None() (l mvm.Limits) {
	for _, s := range Settings() {
		*s.At(&l) = s.Max
	}
	return l
}

// InForce returns the limits of an instance with so many vCPUs: those of its pool, or the
// tenant's ceilings where these are lower. No field is 0.
func InForce(pool, ceilings mvm.Limits, vcpus int) mvm.Limits {
	out, most := Of(pool, vcpus), Of(ceilings, vcpus)
	for _, s := range Settings() {
		at := s.At(&out)
		*at = min(*at, *s.At(&most))
	}
	return out
}

// CheckCeilings says what is wrong with ceilings. KindInvalid.
func CheckCeilings(tenant string, l mvm.Limits) error {
	if err := Check(l); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "tenant %s: ceiling: %w", tenant, err)
	}
	return nil
}

// CheckAsked refuses limits of a pool that are above the tenant's ceilings. A limit that was
// above already, and is not raised, may stay. was is nil for a new pool. KindQuota.
func CheckAsked(tenant string, want mvm.PoolSpec, was *mvm.PoolSpec, ceilings mvm.Limits) error {
	most := Of(ceilings, want.Resources.VCPUs)
	for _, s := range Settings() {
		asked, max := *s.At(&want.Limits), *s.At(&most)
		if asked <= max || was != nil && asked <= *s.At(&was.Limits) {
			continue
		}
		return mvm.Errorf(mvm.KindQuota, "pool %s/%s: limit %s %d is above the tenant's ceiling, which is %d for its instances", tenant, want.ID, s.Name, asked, max).
			WithFix("ask for less, or have an operator raise the ceiling: mvm tenant update %s --ceiling %s=%d", tenant, s.Name, asked)
	}
	return nil
}

// Settable reports whether clients of the tenant may change the pool's limits from was to
// want: of what they change, an operator has set the ceiling.
func Settable(was, want, ceilings mvm.Limits) bool {
	for _, s := range Settings() {
		if most := *s.At(&ceilings); *s.At(&was) != *s.At(&want) && (most == 0 || most == s.Max) {
			return false
		}
	}
	return true
}

// SetCeiling reads NAME=NUMBER, NAME=default or NAME=none into ceilings. KindInvalid.
func SetCeiling(l *mvm.Limits, text string) error {
	if name, none := strings.CutSuffix(text, "=none"); none {
		for _, s := range Settings() {
			if s.Name == name {
				text = fmt.Sprintf("%s=%d", name, s.Max)
			}
		}
	}
	return Set(l, text)
}
