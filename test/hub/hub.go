// Package hub is an image registry for tests, which wants a password.
package hub

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
)

// Who may use it.
const (
	User     = "me"
	Password = "a-password"
)

// Hub is a registry on loopback.
type Hub struct {
	*httptest.Server
	Host string // HOST:PORT, as references have it
}

// New starts a registry, which serves until Close.
func New() Hub {
	next := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != User || password != Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}))
	return Hub{s, strings.TrimPrefix(s.URL, "http://")}
}

// Auth is for who pushes to it.
func (Hub) Auth() authn.Authenticator {
	return authn.FromConfig(authn.AuthConfig{Username: User, Password: Password})
}

// Credentials are docker's config.json for the registry.
func (h Hub) Credentials(password string) []byte {
	auth := base64.StdEncoding.EncodeToString([]byte(User + ":" + password))
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, h.Host, auth)
}
