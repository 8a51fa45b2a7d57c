package manifest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mvm/internal/manifest"
)

var tomlBlock = regexp.MustCompile("(?ms)^```toml\n(.*?)^```$")

// Every TOML example in the documentation is one that mvm takes.
func TestExamplesInTheDocsParse(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, file := range append(files, "../../README.md") {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for n, block := range tomlBlock.FindAllSubmatch(text, -1) {
			kind, err := parseExample(fmt.Sprintf("%s example %d", filepath.Base(file), n+1), block[1])
			seen[kind]++
			if err != nil {
				t.Error(err)
			}
		}
	}
	for _, kind := range []string{"deployment", "new", "agent", "template", "program"} {
		if seen[kind] == 0 {
			t.Errorf("no example of a %s file was found", kind)
		}
	}
}

func parseExample(name string, data []byte) (kind string, err error) {
	text := "\n" + string(data)
	switch {
	case strings.Contains(text, "\n[params.") && strings.Contains(text, "\n[[pools]]"):
		_, err = manifest.ParseTemplate(name, data)
		return "template", err
	case strings.Contains(text, "\n[tenant]"):
		_, err = manifest.ParseDeployment(name, data, anySecret)
		return "deployment", err
	case strings.Contains(text, "\n[overrides") || strings.Contains(text, "\n[secrets]"):
		tpl, err := manifest.FindTemplate("openclaw", "")
		if err == nil {
			_, err = tpl.ParseNewConfig(name, data, anySecret)
		}
		return "new", err
	case strings.Contains(text, "\n[profiles."): // of a flake; TestExampleInTheDocs of package nix reads it
		return "profiles", nil
	case strings.Contains(text, "\nbinary ="):
		_, err = manifest.ParseProgram(name, data)
		return "program", err
	}
	return "agent", manifest.ParseAgentConfig(name, data)
}
