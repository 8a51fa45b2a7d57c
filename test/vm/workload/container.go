package main

import (
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
)

// serveContainer says, on a port that only root may listen on or who has a capability, as
// whom and how it was started.
func serveContainer() error {
	var requests atomic.Int64
	return http.ListenAndServe(":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		dir, err := os.Getwd()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		var st syscall.Stat_t
		if err := syscall.Stat(os.Args[0], &st); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "user %d:%d, in %s, mode %s, %s has %d names, request %d\n", os.Getuid(), os.Getgid(), dir, os.Getenv("MODE"), os.Args[0], st.Nlink, requests.Add(1))
	}))
}
