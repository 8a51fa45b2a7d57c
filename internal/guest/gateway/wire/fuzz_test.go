package wire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"testing"

	"mvm/internal/guest/gateway/wire"
)

// FuzzAnswer has the head of an answer read in place, where that is done, and by net/http:
// it says the same.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200\r\nContent-Length: 0\r\nA: b\r\nA: c\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\nx: \t y \r\n\r\nab", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n"} {
		f.Add([]byte(s), "GET")
		f.Add([]byte(s), "HEAD")
	}
	f.Fuzz(func(t *testing.T, raw []byte, method string) {
		if len(raw) > 4000 {
			return
		}
		got, inPlace := wire.ReadAnswer(raw, method)
		if !inPlace {
			return
		}
		want, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("taken, and net/http says %v", err)
		}
		delete(got.Header, "Connection") // net/http takes it off where it says close
		delete(want.Header, "Connection")
		if got.StatusCode != want.StatusCode || got.ContentLength != want.ContentLength || got.Close != want.Close || !maps.EqualFunc(got.Header, want.Header, slices.Equal) {
			if want.Header.Get("Pragma") == "" { // of which net/http makes another field
				t.Fatalf("got %d, length %d, close %v, %q; net/http has %d, %d, %v, %q", got.StatusCode, got.ContentLength, got.Close, got.Header, want.StatusCode, want.ContentLength, want.Close, want.Header)
			}
		}
		a, errA := io.ReadAll(got.Body)
		b, errB := io.ReadAll(want.Body)
		if !bytes.Equal(a, b) || !errors.Is(errA, errB) {
			t.Fatalf("the body is %q, %v; by net/http %q, %v", a, errA, b, errB)
		}
	})
}
