package manifest

import (
	"fmt"
	"net"
	"strings"

	"mvm/internal/stricttoml"
)

// RegistryConfig is how a host reaches registries of container images.
type RegistryConfig struct {
	Credentials string   // docker's config.json; empty: nobody is logged in
	Private     []string // hosts that may have addresses that are not public
}

// maxRegistries bounds the list of private registries.
const maxRegistries = 32

// registryKeys are the keys of RegistryConfig.
func registryKeys() []agentKey {
	return []agentKey{
		{name: "registry_credentials", value: "", check: absolute(4096)},
		{name: "private_registries", value: "", check: validHosts, list: maxRegistries},
	}
}

func (l *layers) registries() RegistryConfig {
	c := RegistryConfig{Credentials: l.values["registry_credentials"]}
	if s := l.values["private_registries"]; s != "" {
		c.Private = strings.Split(s, ",")
	}
	return c
}

// validHosts takes hosts, each with or without a port, with commas between them.
func validHosts(s string) error {
	words := strings.Split(s, ",")
	if len(words) > maxRegistries {
		return fmt.Errorf("%d hosts are more than %d", len(words), maxRegistries)
	}
	for _, w := range words {
		host := w
		if h, _, err := net.SplitHostPort(w); err == nil {
			host = h
		}
		if host == "" || len(w) > 260 || strings.ContainsAny(host, "/ @\t\n\x00") {
			return fmt.Errorf("%q is not HOST or HOST:PORT", stricttoml.Clip(w))
		}
	}
	return nil
}
