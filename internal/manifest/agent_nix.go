package manifest

import (
	"fmt"
	"net/url"
	"strings"

	"mvm/internal/stricttoml"
)

// NixConfig is how a host builds Nix flakes.
type NixConfig struct {
	Substituters []string // binary caches that are asked
	StoreMiB     int      // of a build's store, which is in memory
	MemoryMiB    int      // of a build's processes
}

// maxSubstituters bounds the list of binary caches.
const maxSubstituters = 8

// nixKeys are the keys of NixConfig.
func nixKeys() []agentKey {
	return []agentKey{
		{name: "nix_substituters", value: "https://cache.nixos.org", check: validCaches, list: maxSubstituters},
		{name: "nix_store_mib", value: "4096", check: number(64, 1<<20), number: true},
		{name: "nix_memory_mib", value: "4096", check: number(256, 1<<20), number: true},
	}
}

func (l *layers) nix() NixConfig {
	c := NixConfig{StoreMiB: l.number("nix_store_mib"), MemoryMiB: l.number("nix_memory_mib")}
	if s := l.values["nix_substituters"]; s != "" && s != noCaches {
		c.Substituters = strings.Split(s, ",")
	}
	return c
}

// noCaches is the word for no binary cache.
const noCaches = "none"

// validCaches takes HTTPS addresses with commas between them, or noCaches.
func validCaches(s string) error {
	if s == noCaches {
		return nil
	}
	words := strings.Split(s, ",")
	if len(words) > maxSubstituters {
		return fmt.Errorf("%d binary caches are more than %d", len(words), maxSubstituters)
	}
	for _, w := range words {
		u, err := url.Parse(w)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || len(w) > 260 || strings.ContainsAny(w, " \t\n\x00") {
			return fmt.Errorf("%q is not https://HOST or https://HOST/PATH, nor %s", stricttoml.Clip(w), noCaches)
		}
	}
	return nil
}
