package plan

import (
	"strings"

	"mvm"
)

// LeftAlone says which instances are left alone, and what that keeps back; nil where
// there are none.
func LeftAlone(alone []Alone) error {
	if len(alone) == 0 {
		return nil
	}
	texts := make([]string, len(alone))
	for n, i := range alone {
		texts[n] = i.String()
	}
	return mvm.Errorf(mvm.KindLeftAlone, "incomplete: %s", strings.Join(texts, "; ")).
		WithFix("wait until then, or use --force")
}
