package manifest

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// TrustConfig is what a host believes, and where its master key is from.
type TrustConfig struct {
	TrustedKeys   string // folder of the public keys that sign desired states
	Production    bool   // the agent starts only on a host that is fit for production
	WeakIsolation bool   // production mode also with driver fake and without KVM
	ReplacesKey   string // id of a master key that is given up, with the secrets that it sealed
	KeyCredential string // systemd credential with the master key; empty: KeyFile, or MVM_MASTER_KEY
}

// trustKeys are the keys of TrustConfig.
func trustKeys() []agentKey {
	return []agentKey{
		{name: "trusted_keys", value: "/etc/mvm/trusted_keys", check: absolute(4096)},
		{name: "production", value: "false", check: validBool, boolean: true},
		{name: "weak_isolation", value: "false", check: validBool, boolean: true},
		{name: "replace_master_key", value: "", check: validKeyID},
		{name: "key_credential", value: "", check: validCredential},
	}
}

func (l *layers) trust() TrustConfig {
	production, _ := strconv.ParseBool(l.values["production"]) // a bad one is a problem already
	weak, _ := strconv.ParseBool(l.values["weak_isolation"])
	return TrustConfig{WeakIsolation: weak, ReplacesKey: l.values["replace_master_key"], TrustedKeys: l.values["trusted_keys"], Production: production, KeyCredential: l.values["key_credential"]}
}

func validBool(s string) error {
	if _, err := strconv.ParseBool(s); err != nil {
		return fmt.Errorf("%q is not true or false", clip(s))
	}
	return nil
}

func validKeyID(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 8 || strings.ToLower(s) != s {
		return fmt.Errorf("%q is not the id of a master key, 16 hex digits", clip(s))
	}
	return nil
}

// validCredential takes the names that systemd takes for a credential and that need no
// escape: letters, digits, '.', '-', '_'.
func validCredential(s string) error {
	ok := s != "" && len(s) <= 255 && s[0] != '.'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
	}
	if !ok {
		return fmt.Errorf("%q is not the name of a credential", clip(s))
	}
	return nil
}

// bool reads a boolean of the file as text.
func (i item) bool() string {
	b, ok := i.val.(bool)
	if !ok {
		i.wrongType("a boolean")
	}
	return strconv.FormatBool(b)
}
