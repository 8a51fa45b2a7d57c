package manifest

import "mvm"

// ParseAgentConfig checks the content of a config file by itself.
func ParseAgentConfig(file string, data []byte) error {
	if len(data) > MaxFileBytes {
		return mvm.Errorf(mvm.KindInvalid, "read %s: it has more than %d bytes", file, MaxFileBytes)
	}
	_, _, problems := parseAgentFile(file, data)
	return problems.err()
}
