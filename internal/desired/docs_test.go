package desired_test

import (
	"os"
	"regexp"
	"testing"

	"mvm/internal/desired"
)

var jsonBlock = regexp.MustCompile("(?ms)^```json\n(.*?)^```$")

// Every JSON example of the page is a document that mvm takes.
func TestExamplesInTheDocsAreTaken(t *testing.T) {
	text, err := os.ReadFile("../../docs/desired.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := jsonBlock.FindAllSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Fatal("the page has no example")
	}
	for n, b := range blocks {
		if _, err := desired.Decode(b[1]); err != nil {
			t.Errorf("example %d: %v", n+1, err)
		}
	}
}
