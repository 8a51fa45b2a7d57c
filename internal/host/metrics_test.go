package host_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/host"
	"mvm/internal/testenv"
)

// scrape asks for the metrics and returns the status, and the text where it is 200.
func scrape(t *testing.T, network, addr, token string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://localhost/metrics", nil)
	must(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(req)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b)
}

// TestMetricsAreForWhoMayHaveThem: on TCP they need the token, which the agent makes once; on
// a Unix socket the file says who may connect.
func TestMetricsAreForWhoMayHaveThem(t *testing.T) {
	o := options(testenv.Dir(t))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	o.Observe.MetricsListen = free.Addr().String()
	must(t, free.Close())
	path := filepath.Join(o.DataDir, "metrics.token")
	first := ""
	for range 2 { // the second start keeps the token
		_, stop := serve(t, o)
		b, err := os.ReadFile(path)
		must(t, err)
		info, err := os.Stat(path)
		must(t, err)
		token := strings.TrimSpace(string(b))
		if first == "" {
			first = token
		}
		if len(token) != 64 || token != first || info.Mode().Perm() != 0o600 {
			t.Errorf("the token has %d bytes, is that of before: %t, and its file has mode %o", len(token), token == first, info.Mode().Perm())
		}
		for try, want := range map[string]int{"": 401, token[1:]: 401, token: 200} {
			if got, text := scrape(t, "tcp", o.Observe.MetricsListen, try); got != want || strings.Contains(text, "mvm_audit") != (want == 200) {
				t.Errorf("with %d bytes of a token: got status %d, want %d", len(try), got, want)
			}
		}
		stop()
	}
	must(t, os.WriteFile(path, []byte("short\n"), 0o600))
	if err := host.Serve(t.Context(), o, nil); !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), "metrics.token") {
		t.Errorf("a token that can be guessed: %v", err)
	}
	socket := filepath.Join(o.RunDir, "metrics.sock")
	o.Observe.MetricsListen = "unix:" + socket
	_, stop := serve(t, o)
	defer stop()
	if got, text := scrape(t, "unix", socket, ""); got != 200 || !strings.Contains(text, "mvm_audit") {
		t.Errorf("over the socket: got status %d", got)
	}
	info, err := os.Stat(socket)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %o", info.Mode().Perm())
	}
}
