package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named is a package, file or pattern of files between backticks.
var named = regexp.MustCompile("`((?:internal|cmd|test|agent|store|image|ingress|lifecycle|live|fleet|plan|recovery)/[a-z0-9_/.*-]+)`")

// TestArchitectureNamesWhatIsThere: what ARCHITECTURE.md names is in the tree.
func TestArchitectureNamesWhatIsThere(t *testing.T) {
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, m := range named.FindAllStringSubmatch(string(page), -1) {
		seen++
		found := false
		for _, base := range []string{"..", "../internal"} {
			all, err := filepath.Glob(filepath.Join(base, strings.TrimSuffix(m[1], "/")))
			found = found || err == nil && len(all) > 0
		}
		if !found {
			t.Errorf("ARCHITECTURE.md names %s, which is not there", m[1])
		}
	}
	if seen < 50 {
		t.Errorf("ARCHITECTURE.md names %d packages and files, want the most of them", seen)
	}
}
