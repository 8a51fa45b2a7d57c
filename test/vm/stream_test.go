package vm_test

import (
	"bufio"
	"net/http"

	"github.com/coder/websocket"

	"mvm"
)

// testStreaming: the first line is there while the workload still holds the second.
func (h *host) testStreaming(web string) {
	req, err := http.NewRequestWithContext(h.ctx(), "GET", "http://"+web+"/stream", nil)
	must(h.t, err)
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	must(h.t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || lines.Text() != "one" {
		h.t.Fatalf("the first line is %q, %v", lines.Text(), lines.Err())
	}
	h.page(web, "/release")
	if !lines.Scan() || lines.Text() != "two" {
		h.t.Fatalf("the second line is %q, %v", lines.Text(), lines.Err())
	}
}

// testWebSocket: an idle WebSocket outlives its worker's sleep, and its next message
// wakes the worker.
func (h *host) testWebSocket(web string) {
	id := h.only("workers").ID
	c, resp, err := websocket.Dial(h.ctx(), "ws://"+web+"/ws", nil)
	must(h.t, err)
	if resp.Body != nil {
		defer resp.Body.Close()
	}
	defer func() { _ = c.CloseNow() }()
	say := func(msg, want string) {
		h.t.Helper()
		must(h.t, c.Write(h.ctx(), websocket.MessageText, []byte(msg)))
		_, got, err := c.Read(h.ctx())
		if err != nil || string(got) != want {
			h.t.Fatalf("the answer to %q is %q, %v, want %q", msg, got, err, want)
		}
	}
	say("a", "1:a")
	for _, m := range [][2]string{{"b", "2:b"}, {"c", "3:c"}} {
		if i := h.do(id, mvm.OpSleep); i.State != mvm.StateSleeping {
			h.t.Fatalf("it is %s", i.State)
		}
		woken := h.events(id, mvm.InstanceWoken)
		say(m[0], m[1])
		if n := h.events(id, mvm.InstanceWoken) - woken; n != 1 {
			h.t.Errorf("the message woke the worker %d times, want once", n)
		}
	}
	must(h.t, c.Close(websocket.StatusNormalClosure, ""))
}
