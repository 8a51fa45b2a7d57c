package cli

// EncodeYAML is how -o yaml prints a value.
func EncodeYAML(v any) ([]byte, error) { return encode(asYAML, v) }
