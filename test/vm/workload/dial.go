package main

import (
	"context"
	"fmt"
	"time"

	"mvm/internal/guestproto/mux"
)

// strangePort is a port of the host that no guest is served on.
const strangePort = 99

// dial answers nothing, and tries again and again to get to the host on a port that is
// none of a guest's. The console shows what came of each try.
func dial(srv *mux.Server) {
	for n := 0; ; {
		s, err := srv.Accept(context.Background())
		if err != nil {
			fmt.Println("accept:", err)
			time.Sleep(time.Second)
			continue
		}
		for ; !s.Over(); n++ {
			fmt.Printf("dialled %d: %s\n", n, fetch(s))
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// fetch asks whoever serves the port for a page, and returns what comes.
func fetch(s *mux.Session) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := s.Open(ctx, strangePort)
	if err != nil {
		return "no stream"
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "no stream"
	}
	b := make([]byte, 12)
	if _, err := fmt.Fprint(conn, "GET /v1/version HTTP/1.0\r\nHost: mvm\r\n\r\n"); err != nil {
		return "refused"
	}
	n, _ := conn.Read(b)
	if n == 0 {
		return "refused"
	}
	return fmt.Sprintf("answered %q", b[:n])
}
