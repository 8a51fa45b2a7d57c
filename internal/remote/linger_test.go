package remote_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"mvm/internal/api"
	"mvm/internal/remote"
)

// TestRefusalsAreRead: a client that sends all of its request before it reads gets the
// answer, and no reset in its place.
func TestRefusalsAreRead(t *testing.T) {
	n := start(t, remote.Options{Handshake: time.Minute, Linger: time.Minute}, api.ServerConfig{})
	cfg := conf(t, n.bundle("laptop", "", day))
	cfg.NextProtos = []string{"http/1.1"}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for range 24 {
		for _, size := range []int{64 << 10, 4 << 20} {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				c, err := tls.Dial("tcp", n.addr, cfg)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				_, err = fmt.Fprintf(c, "POST /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", size)
				for sent := 0; err == nil && sent < size; sent += 16 << 10 {
					_, err = c.Write(bytes.Repeat([]byte("x"), 16<<10))
				}
				if err != nil {
					t.Errorf("send %d bytes: %v", size, err)
					return
				}
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil || resp.StatusCode != http.StatusNotFound {
					t.Errorf("after %d bytes: %+v, %v; want a 404", size, resp, err)
					return
				}
				_ = resp.Body.Close()
			})
		}
	}
	wg.Wait()
}
