package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var adrNamed = regexp.MustCompile(`ADRs? (\d+)`)

// TestADRsAreNumbered: records of decisions have the numbers from 1 on, each once, in their names
// and titles, and the pages name none that is not there.
func TestADRsAreNumbered(t *testing.T) {
	all, err := filepath.Glob("adr/*.md")
	if err != nil || len(all) < 14 {
		t.Fatalf("records %q, %v", all, err)
	}
	for n, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if name, title := fmt.Sprintf("%04d-", n+1), fmt.Sprintf("# %d. ", n+1); !strings.HasPrefix(filepath.Base(path), name) || !strings.HasPrefix(string(b), title) {
			t.Errorf("%s is not record %d in its name and title", path, n+1)
		}
	}
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(pages, all...) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range adrNamed.FindAllStringSubmatch(string(b), -1) {
			if n, err := strconv.Atoi(m[1]); err != nil || n < 1 || n > len(all) {
				t.Errorf("%s names %s of %d", path, m[0], len(all))
			}
		}
	}
}
