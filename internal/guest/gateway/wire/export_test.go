package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
)

// silent is a client that is told nothing.
type silent struct{}

func (silent) Started()           {}
func (silent) SayContinue() error { return nil }

// ReadRequests reads what a client says as a connection's server does, and calls each for
// every request with its body, or with the error that reading it ended with. It returns
// the status that ended it, 0 where the bytes did.
func ReadRequests(from io.Reader, each func(req *http.Request, body []byte, err error)) int {
	var in Inbox
	var h Head
	var b Body
	var memory Budget
	memory.Set(16 << 20)
	const limit = 64 << 10
	in.Begin(from, make([]byte, InboxSize), limit+1, &memory)
	for {
		if err := h.ReadFrom(&in, limit, &memory, silent{}); err != nil {
			var e *Refusal
			if errors.As(err, &e) {
				return e.Status
			}
			return 0
		}
		req := &h.Req
		b.Begin(&in, silent{}, req)
		body, err := io.ReadAll(req.Body)
		each(req, body, err)
		if err != nil || req.Close {
			return 0
		}
	}
}

// ReadAnswer has the head of an answer read in place, and says whether it was.
func ReadAnswer(raw []byte, method string) (*http.Response, bool) {
	in := bufio.NewReaderSize(bytes.NewReader(raw), 4<<10)
	var a AnswerHead
	res, err := a.Read(in, &http.Request{Method: method})
	return res, err == nil && res == &a.res
}
