package mvm_test

import (
	"strings"
	"testing"

	"mvm"
)

func TestSecretsHaveBounds(t *testing.T) {
	value := func(n int) []byte { return []byte(strings.Repeat("x", n)) }
	for name, c := range map[string]struct {
		secrets map[string][]byte
		say     string
	}{
		"the largest value":   {map[string][]byte{"a": value(mvm.MaxSecretBytes)}, ""},
		"a larger one":        {map[string][]byte{"a": value(mvm.MaxSecretBytes + 1)}, "secret a has 65537 bytes, more than 65536"},
		"as much as may be":   {map[string][]byte{"a": value(mvm.MaxSecretBytes), "b": value(mvm.MaxSecretBytes - 2)}, ""},
		"too much together":   {map[string][]byte{"a": value(mvm.MaxSecretBytes), "b": value(mvm.MaxSecretBytes - 1)}, "131073 bytes together, more than 131072"},
		"a name that is none": {map[string][]byte{"../a": value(1)}, "../a"},
	} {
		err := mvm.ValidateSecrets(c.secrets)
		if (err == nil) != (c.say == "") || err != nil && (!mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), c.say)) {
			t.Errorf("%s: got %v, want %q", name, err, c.say)
		}
	}
}
