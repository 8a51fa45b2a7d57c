package script_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// curls DOCUMENT ADDRESS INSTANCE does what the curl lines of the document show, with an
// ordinary HTTP client, in the folder of a client's certificate: at the address instead
// of node.example, and with the instance instead of the example's. Each must succeed;
// their answers are in stdout, of a stream the first line.
func curls(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: curls DOCUMENT ADDRESS INSTANCE")
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", args[0]))
	ts.Check(err)
	n := 0
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 0 && words[0] == "curl" {
			n++
			with := strings.NewReplacer("node.example:7443", args[1], "i-a3f7b2c1", args[2])
			answer, err := curl(ts, strings.Fields(with.Replace(strings.ReplaceAll(line, "'", "")))[1:])
			if err != nil {
				ts.Fatalf("%s: %v", strings.TrimSpace(line), err)
			}
			fmt.Fprintln(ts.Stdout(), answer)
		}
	}
	if n == 0 {
		ts.Fatalf("%s shows no curl", args[0])
	}
}

// curl understands as much of its command line as the documents use.
func curl(ts *testscript.TestScript, args []string) (string, error) {
	opt := map[string]string{"-X": "GET"}
	url := ""
	for n := 0; n < len(args); n++ {
		switch a := args[n]; a {
		case "--cacert", "--cert", "--key", "-X", "-d":
			n++
			opt[a] = args[n]
		case "-N":
			opt[a] = "yes"
		default:
			url = a
		}
	}
	pair, err := tls.LoadX509KeyPair(ts.MkAbs(opt["--cert"]), ts.MkAbs(opt["--key"]))
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ts.ReadFile(opt["--cacert"])))
	tr := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, opt["-X"], url, strings.NewReader(opt["-d"]))
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var answer string
	if opt["-N"] != "" {
		answer, err = bufio.NewReader(resp.Body).ReadString('\n')
	} else {
		var b []byte
		b, err = io.ReadAll(resp.Body)
		answer = string(b)
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, answer)
	}
	return answer, err
}
