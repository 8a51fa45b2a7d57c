package gateway_test

import (
	"regexp"
	"strings"
	"testing"

	"mvm/internal/guest/gateway"
)

// The question to the host carries the id of the request that caused it; a client's
// word for it is taken only where it is an id.
func TestRequestIDReachesTheHost(t *testing.T) {
	own := `^g-[0-9a-f]{12}$`
	for header, want := range map[string]string{
		"trace-1.A_b": `^trace-1\.A_b$`, "": own, "with space": own, "<script>": own, strings.Repeat("x", 65): own,
	} {
		l := newLab(t, gateway.Limits{}, webRoute("any", 80, "/", anyOne))
		l.instance(ip3, named("three"))
		var headers []string
		if header != "" {
			headers = []string{"X-Request-Id", header}
		}
		if code, _, _ := l.do("GET", 80, "/", "", headers...); code != 200 {
			t.Fatalf("%q: status %d", header, code)
		}
		l.host.mu.Lock()
		got := l.host.requests
		l.host.mu.Unlock()
		if len(got) != 1 || !regexp.MustCompile(want).MatchString(got[0]) {
			t.Errorf("a client's id %q: the host was asked with %q, want %s", header, got, want)
		}
	}
}
