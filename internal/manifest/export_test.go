package manifest

// ParseAgentConfig checks the content of a config file by itself.
func ParseAgentConfig(file string, data []byte) error {
	if _, _, err := open(file, data); err != nil {
		return err
	}
	_, _, problems := parseAgentFile(file, data)
	return problems.err()
}
