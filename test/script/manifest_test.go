package script_test

import (
	"os"
	"regexp"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	tomlBlock = regexp.MustCompile("(?ms)^```toml\n(.*?)^```$")
	hostPort  = regexp.MustCompile(`(?m)^(publish = \["[0-9.]+):[0-9]+:`)
)

// documented writes the n-th manifest of a page of docs to a file, with free host ports in
// place of its own: documented PAGE N FILE.
func documented(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: documented PAGE N FILE")
	}
	text, err := os.ReadFile("../../docs/" + args[0])
	ts.Check(err)
	blocks := tomlBlock.FindAllSubmatch(text, -1)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	if n >= len(blocks) {
		ts.Fatalf("%s has %d manifests", args[0], len(blocks))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), hostPort.ReplaceAll(blocks[n][1], []byte("$1:0:")), 0o600))
}
