package manifest

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"mvm/internal/stricttoml"
)

// TrustConfig is what a host believes, and where its master key is from.
type TrustConfig struct {
	TrustedKeys   string   // folder of the public keys that sign desired states
	Production    bool     // the agent starts only on a host that is fit for production
	WeakIsolation bool     // production mode also with driver fake, without KVM, and without walls around VMMs
	JailWithout   []string // walls that VMMs go without
	ReplacesKey   string   // id of a master key that is given up, with the secrets that it sealed
	KeyCredential string   // systemd credential with the master key; empty: KeyFile, or MVM_MASTER_KEY
}

// trustKeys are the keys of TrustConfig.
func trustKeys() []agentKey {
	return []agentKey{
		{name: "trusted_keys", value: "/etc/mvm/trusted_keys", check: absolute(4096)},
		{name: "production", value: "false", check: validBool, boolean: true},
		{name: "weak_isolation", value: "false", check: validBool, boolean: true},
		{name: "jail_without", value: "", check: validWalls, list: maxWalls},
		{name: "replace_master_key", value: "", check: validKeyID},
		{name: "key_credential", value: "", check: validCredential},
	}
}

func (l *layers) trust() TrustConfig {
	production, _ := strconv.ParseBool(l.values["production"]) // a bad one is a problem already
	weak, _ := strconv.ParseBool(l.values["weak_isolation"])
	var without []string
	if s := l.values["jail_without"]; s != "" {
		without = strings.Split(s, ",")
	}
	return TrustConfig{JailWithout: without, WeakIsolation: weak, ReplacesKey: l.values["replace_master_key"], TrustedKeys: l.values["trusted_keys"], Production: production, KeyCredential: l.values["key_credential"]}
}

// Walls are the names of the walls around VMMs that jail_without takes.
const Walls = "network-namespace, mount-namespace, pid-namespace, ipc-namespace, uts-namespace, cgroup-namespace, keyring, rlimits, capabilities, landlock, seccomp"

const maxWalls = 16

// validWalls takes names of walls, with commas between them.
func validWalls(s string) error {
	for w := range strings.SplitSeq(s, ",") {
		if !slices.Contains(strings.Split(Walls, ", "), w) {
			return fmt.Errorf("%q is no wall: the walls are %s", stricttoml.Clip(w), Walls)
		}
	}
	return nil
}

func validBool(s string) error {
	if _, err := strconv.ParseBool(s); err != nil {
		return fmt.Errorf("%q is not true or false", stricttoml.Clip(s))
	}
	return nil
}

func validKeyID(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 8 || strings.ToLower(s) != s {
		return fmt.Errorf("%q is not the id of a master key, 16 hex digits", stricttoml.Clip(s))
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
		return fmt.Errorf("%q is not the name of a credential", stricttoml.Clip(s))
	}
	return nil
}

// readBool reads a boolean of the file as text.
func readBool(i stricttoml.Item) string {
	b, ok := i.Val.(bool)
	if !ok {
		i.WrongType("a boolean")
	}
	return strconv.FormatBool(b)
}
