package api_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"context"

	"mvm/internal/api"
)

// TestRedocly: a linter of others finds nothing in the API's description. It reads one
// file and asks nobody over the network.
func TestRedocly(t *testing.T) {
	redocly, err := exec.LookPath("redocly")
	if err != nil {
		t.Fatalf("%v: run scripts/setup --test", err)
	}
	text, err := api.OpenAPI("test")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "openapi.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// mvm has no license to name, so the rule for one is left out.
	cmd := exec.CommandContext(ctx, redocly, "lint", "--extends=recommended-strict", "--skip-rule=info-license", "--format=stylish", file)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "CI=1", "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("redocly lint: %v\n%s", err, out)
	}
}
