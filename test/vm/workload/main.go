// Command workload is what runs in the guests of the tests of package vm: a web
// server whose memory, files and sequence numbers tell whether anything was lost.
// As PID 1 it is a hostile guest instead, which never answers its host or floods it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

func main() {
	if os.Getpid() == 1 {
		hostile(os.Getenv("mvmtest")) // the kernel makes its arguments the environment of init
	}
	run := serve
	if slices.Contains(os.Args, "chat") {
		run = serveChat
	}
	if slices.Contains(os.Args, "container") {
		run = serveContainer
	}
	if filepath.Base(os.Args[0]) == "node" {
		run = serveAsNode
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve answers on port 8000 until that fails.
func serve() error {
	w, err := newWriter("/data/journal")
	if err != nil {
		return err
	}
	if !slices.Contains(os.Args, "quiet") { // then it does nothing that it is not asked for
		go w.run()
	}
	s := &server{writer: w, started: time.Now(), release: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", s.hello)
	mux.HandleFunc("/echo", s.echo)
	mux.HandleFunc("/time", s.time)
	mux.HandleFunc("/secret", s.secret)
	mux.HandleFunc("/check", s.check)
	mux.HandleFunc("/stream", s.stream)
	mux.HandleFunc("/release", s.releaseStream)
	mux.HandleFunc("/ws", s.webSocket)
	mux.HandleFunc("/spin", s.spin)
	mux.HandleFunc("/noise", s.noise)
	mux.HandleFunc("/once", s.once)
	mux.HandleFunc("/arrived", s.arrived)
	mux.HandleFunc("/in", s.in)
	mux.HandleFunc("/discord", discord)
	server := &http.Server{Addr: ":8000", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		mux.ServeHTTP(w, r)
	}), ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}}
	return server.ListenAndServe()
}

type server struct {
	writer  *writer
	started time.Time
	release chan struct{} // a stream goes on for each value

	conns, requests atomic.Int64
}

// hello says which instance this is.
func (s *server) hello(w http.ResponseWriter, _ *http.Request) {
	name, err := os.Hostname()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, name)
}

// arrived says how many connections and requests have come.
func (s *server) arrived(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, s.conns.Load(), s.requests.Load())
}

func (s *server) echo(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.FormValue("say")) }

func (s *server) time(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, time.Now().UnixNano()) }

func (s *server) secret(w http.ResponseWriter, r *http.Request) {
	b, err := os.ReadFile(filepath.Join("/run/secrets", filepath.Base(r.FormValue("name"))))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = w.Write(b)
}

// stream sends a line at once, and the second when /release is asked for.
func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, "one")
	if err := http.NewResponseController(w).Flush(); err != nil {
		return
	}
	select {
	case <-s.release:
		fmt.Fprintln(w, "two")
	case <-r.Context().Done():
	}
}

func (s *server) releaseStream(_ http.ResponseWriter, r *http.Request) {
	select {
	case s.release <- struct{}{}:
	case <-r.Context().Done():
	}
}

// spin keeps a CPU busy for the time, beyond the answer.
func (s *server) spin(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("for"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	go func() {
		for end := time.Now().Add(d); time.Now().Before(end); {
		}
	}()
}

// noise sends 10 KiB a second to a port that nobody hears, for the time.
func (s *server) noise(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("for"))
	c, dialErr := net.Dial("udp", r.FormValue("to"))
	if err = errors.Join(err, dialErr); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	go func() {
		defer c.Close()
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			_, _ = c.Write(make([]byte, 1024))
		}
	}()
}

// once notes on the disk that the request with the id has come, and sends what says so.
// Then it holds the request until its client is gone.
func (s *server) once(w http.ResponseWriter, r *http.Request) {
	if err := s.note(r.FormValue("id")); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	switch r.FormValue("how") {
	case "events":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: come\n\n")
		_ = http.NewResponseController(w).Flush()
	case "ws":
		s.webSocket(w, r)
		return
	}
	<-r.Context().Done()
}

// in takes a message of a channel, or answers as /data/answer has it.
func (s *server) in(w http.ResponseWriter, r *http.Request) {
	if b, err := os.ReadFile("/data/answer"); err == nil {
		if status, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			w.WriteHeader(status)
			return
		}
	}
	if err := s.note(r.Header.Get("X-Mvm-Message-Id")); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// discord answers a message of Discord, which the channel's secret came with.
func discord(w http.ResponseWriter, r *http.Request) {
	var known struct {
		Secret string `json:"secret"`
	}
	var m struct {
		Content string `json:"content"`
	}
	b, err := os.ReadFile("/run/secrets/channels/discord.json")
	if err = errors.Join(err, json.Unmarshal(b, &known), json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&m)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+known.Secret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"reply": "heard: " + m.Content})
}

// note adds a line to the list of requests, durably.
func (s *server) note(id string) error {
	f, err := os.OpenFile("/data/once", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(id + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// webSocket answers each message with its number on this connection and itself.
func (s *server) webSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	for n := 1; ; n++ {
		kind, msg, err := c.Read(r.Context())
		if err == nil {
			err = c.Write(r.Context(), kind, fmt.Appendf(nil, "%d:%s", n, msg))
		}
		if err != nil {
			if !errors.Is(err, r.Context().Err()) {
				fmt.Fprintln(os.Stderr, "websocket:", err)
			}
			return
		}
	}
}
