package manifest

import "mvm/internal/stricttoml"

// ParseAgentConfig checks the content of a config file by itself.
func ParseAgentConfig(file string, data []byte) error {
	if _, _, err := stricttoml.Open(file, data); err != nil {
		return err
	}
	_, _, problems := parseAgentFile(file, data)
	return problems.Err()
}
