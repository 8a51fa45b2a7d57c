package api_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
)

// answer is a recorder with the deadlines of a connection.
type answer struct{ *httptest.ResponseRecorder }

func (answer) SetReadDeadline(time.Time) error  { return nil }
func (answer) SetWriteDeadline(time.Time) error { return nil }

// beyond finds calls of the service about a tenant that is not the caller's.
var beyond = regexp.MustCompile(`(?m)^\w+ by api:t: \["(acme|other)"|"(?i:tenant)":"(acme|other)"|"tenant":\{"id":"(acme|other)"`)

// FuzzRoutes sends whole requests as a tenant's client: whatever comes, it is answered,
// an answer that is no success says why with a kind, the fault is never the agent's
// own, and no other tenant is reached.
func FuzzRoutes(f *testing.F) {
	for _, pattern := range api.Routes() {
		method, path, _ := strings.Cut(pattern, " ")
		for _, tenant := range []string{"stranger", "acme"} {
			path := strings.NewReplacer("{tenant}", tenant, "{pool}", "workers", "{address}", tenant+"%2Fworkers%2Fi-a3f7b2c1").Replace(path)
			f.Add(method, path, []byte(`{}`))
			f.Add(method, path+"?tenant="+tenant+"&tail=1", []byte(``))
		}
		f.Add(method, strings.ReplaceAll(path, "{address}", foreign), []byte(`{"op":"destroy","argv":["id"]}`))
	}
	f.Add("POST", "/v1/deploy", []byte(`{"deployment":{"tenant":{"id":"acme"}}}`))
	f.Add("GET", "/v1/tenants/../tenants/acme", []byte(``))
	f.Add("GET", "//v1/tenants//acme", []byte(``))
	svc := &twoTenants{}
	srv := api.NewServer(svc, api.ServerConfig{Admit: asTenant("stranger"), Log: slog.New(slog.DiscardHandler)})
	h := srv.Handler()
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil || strings.Contains(method, "CONNECT") {
			t.Skip()
		}
		svc.mu.Lock()
		svc.calls = nil
		svc.mu.Unlock()
		w := answer{httptest.NewRecorder()}
		r := &http.Request{Method: method, URL: u, Host: "node", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RequestURI: target,
			Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(body))), ContentLength: int64(len(body)), RemoteAddr: "@"}
		h.ServeHTTP(w, r.WithContext(t.Context()))
		if calls := strings.Join(svc.calls, "\n"); beyond.MatchString(calls) {
			t.Fatalf("%s %s %s reached another tenant: %s", method, target, body, calls)
		}
		if w.Code < 400 {
			return
		}
		var e struct{ Kind mvm.Kind }
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Kind == "" || e.Kind == mvm.KindInternal {
			t.Fatalf("%s %s %s: %d %s", method, target, body, w.Code, w.Body)
		}
	})
}
