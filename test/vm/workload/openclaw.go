package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
)

// serveAsNode is Node in an image with the layout of OpenClaw's: it says as whom and how it
// was started, on OpenClaw's port, and answers what mvm asks of OpenClaw on the other.
func serveAsNode() error {
	var suspended, resumed atomic.Int64
	control := http.NewServeMux()
	control.HandleFunc("GET /busy", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"busy":false}`) })
	control.HandleFunc("POST /suspend", func(w http.ResponseWriter, r *http.Request) {
		var b [256]byte
		n, _ := r.Body.Read(b[:])
		if strings.Contains(string(b[:n]), `"resume"`) {
			resumed.Add(1)
			fmt.Fprint(w, `{"state":"running"}`)
			return
		}
		suspended.Add(1)
		fmt.Fprint(w, `{"state":"ready","lease_ms":120000}`)
	})
	app := http.NewServeMux()
	app.HandleFunc("GET /startupz", func(http.ResponseWriter, *http.Request) {})
	app.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		var st syscall.Stat_t
		place, err := os.ReadFile("/opt/openclaw/place.mjs")
		err = errors.Join(err, syscall.Stat("/data/openclaw", &st), os.WriteFile("/data/home/workspace/x", nil, 0o600))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "user %d, args %q, home %s, state %s of user %d, mode %s, token %q, suspended %d, resumed %d\n%s",
			os.Getuid(), os.Args[1:], os.Getenv("HOME"), os.Getenv("OPENCLAW_STATE_DIR"), st.Uid, os.Getenv("NODE_ENV"), os.Getenv("OPENCLAW_GATEWAY_TOKEN"),
			suspended.Load(), resumed.Load(), place)
	})
	failed := make(chan error, 2)
	go func() { failed <- http.ListenAndServe("127.0.0.1:18780", control) }()
	go func() { failed <- http.ListenAndServe(":18789", app) }()
	return <-failed
}
