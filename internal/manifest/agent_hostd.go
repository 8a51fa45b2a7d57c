package manifest

import (
	"fmt"
	"regexp"

	"mvm/internal/stricttoml"
)

// HostdConfig is how the rights of a host are split between `mvm hostd`, which has
// them, and the agent, which then has none.
type HostdConfig struct {
	Socket string // unix socket of mvm hostd; empty: the agent has the rights itself
	User   string // the agent's user, by name or number: the only one who may ask, beside root
}

// hostdKeys are the keys of HostdConfig.
func hostdKeys() []agentKey {
	return []agentKey{
		{name: "hostd_socket", value: "", check: absolute(maxSocketPath - 7)}, // its lock is beside it
		{name: "hostd_user", value: "mvm", check: validUser},
	}
}

func (l *layers) hostd() HostdConfig {
	return HostdConfig{Socket: l.values["hostd_socket"], User: l.values["hostd_user"]}
}

// userName is what useradd takes, or a number.
var userName = regexp.MustCompile(`^([a-z_][a-z0-9_-]{0,31}|[1-9][0-9]{0,9})$`)

func validUser(s string) error {
	if !userName.MatchString(s) || s == "root" {
		return fmt.Errorf("%q is not the name or number of a user other than root", stricttoml.Clip(s))
	}
	return nil
}
