package build_test

import (
	"testing"
	"time"

	"mvm/internal/build"
)

func TestPathsAreHidden(t *testing.T) {
	for in, want := range map[string]string{
		"dir:/srv/images/app": "dir:[path]", "oci-archive:/srv/a.tar:v2": "oci-archive:[path]:v2",
		"oci:registry.example/openclaw/openclaw:2026": "oci:registry.example/openclaw/openclaw:2026", "builtin:minimal": "builtin:minimal",
		"GET https://registry.example/v2/a/b: 404": "GET https://registry.example/v2/a/b: 404", "no space left in /var/lib/mvm/images (3 MiB free)": "no space left in [path] (3 MiB free)",
		`open "/root/.docker/config.json": denied`: `open "[path]": denied`, "open '/a b/c'": "open '[path] b/c'", "data in /x, /y; or (/z)": "data in [path], [path]; or ([path])",
		"2/3 layers, 4 MiB/s and/or more": "2/3 layers, 4 MiB/s and/or more", "PATH=/usr/bin": "PATH=[path]", "entry usr/bin/x leads out": "entry usr/bin/x leads out", "": "",
	} {
		if got := build.WithoutPaths(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	r := build.Run{Ref: "dir:/srv", Step: "copy /srv/x", Error: "open /srv/x", Fix: "see /srv/x"}.WithoutPaths()
	if r.Ref != "dir:[path]" || r.Step != "copy [path]" || r.Error != "open [path]" || r.Fix != "see [path]" {
		t.Errorf("got %+v", r)
	}
}

func TestTook(t *testing.T) {
	at := time.Unix(1000, 0)
	r := build.Run{State: build.Building, Created: at}
	if got := r.Took(at.Add(time.Minute)); got != time.Minute {
		t.Errorf("so far: %s", got)
	}
	r.State, r.Ended = build.Done, at.Add(time.Second)
	if got := r.Took(at.Add(time.Minute)); got != time.Second {
		t.Errorf("at its end: %s", got)
	}
	if got := r.Took(at); got != time.Second {
		t.Errorf("at its end: %s", got)
	}
}
