package chat_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func (h *host) dialContext(name string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(h.dir, name))
	}
}

type update struct {
	id  int64
	raw json.RawMessage
}

// updates asks the Bot API for what is not confirmed, after the offset.
func updates(client *http.Client, root string, offset int64) (list []update, err error) {
	resp, err := client.Post(fmt.Sprintf("%s/bot%s/getUpdates?timeout=50&limit=100&offset=%d", root, realToken, offset), "application/json", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var got struct{ Result []json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		return nil, err
	}
	for _, raw := range got.Result {
		var u struct {
			ID int64 `json:"update_id"`
		}
		if err := json.Unmarshal(raw, &u); err != nil {
			return nil, err
		}
		list = append(list, update{u.ID, raw})
	}
	return list, nil
}

// post sends an update to a worker.
func post(client *http.Client, raw []byte) error { return postTo(client, raw, "") }

func postTo(client *http.Client, raw []byte, secret string) error {
	req, err := http.NewRequest(http.MethodPost, "http://worker/telegram-webhook", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Telegram-Bot-Api-Secret-Token", secret)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the worker answered %s", resp.Status)
	}
	return nil
}

// BenchmarkOpenClaw measures what a user of a bot waits for with the real OpenClaw, awake and
// frozen: from the message at Telegram to the first sign of typing, until OpenClaw has it on
// disk, and until its answer is at Telegram; beside the same message posted to OpenClaw
// directly, without a gateway.
func BenchmarkOpenClaw(b *testing.B) {
	const rounds = 12
	for b.Loop() {
		h := newHost(b)
		o := &user{host: h, m: measures{}}
		h.ready()
		o.message("first")
		for range rounds {
			h.ready()
			o.message("awake")
			h.ready()
			o.direct()
			h.ready()
			h.until("it falls asleep", h.sleep)
			o.message("frozen")
		}
		direct := o.m.median("direct: accepted")
		fmt.Printf("medians of %d rounds, a message at Telegram with the real OpenClaw; posted to OpenClaw directly it is accepted after %.1f ms and answered after %.0f ms\n", rounds,
			direct.Seconds()*1000, o.m.median("direct: answered").Seconds()*1000)
		for _, how := range []string{"awake", "frozen"} {
			for _, what := range []string{"typing", "accepted", "answered"} {
				ms := o.m.median(how+": "+what).Seconds() * 1000
				ratio := ms / (o.m.median("direct: "+what).Seconds() * 1000)
				if what == "typing" {
					ratio = ms / (direct.Seconds() * 1000)
				}
				fmt.Printf("%-7s %-9s %7.1f ms  %.2f of directly\n", how, what, ms, ratio)
				b.ReportMetric(ms, how+"-"+what+"-ms")
			}
		}
	}
}

// user writes messages and looks at the times.
type user struct {
	*host
	m measures
	n int
}

func (o *user) key() string {
	o.n++
	return fmt.Sprintf("m-100-%03d", o.n)
}

// answered waits for the answer and returns when it was sent.
func (o *user) answered(key string) (at time.Time) {
	o.t.Helper()
	o.until(key+" is answered", func() error {
		for _, s := range o.api.Sent() {
			if strings.Contains(s.Text, key) {
				at = s.At
				return nil
			}
		}
		return fmt.Errorf("%d wait", len(o.api.Pending()))
	})
	return at
}

// message writes a message at Telegram.
func (o *user) message(how string) {
	o.t.Helper()
	confirms, key := len(o.api.Calls("getUpdates")), o.key()
	began := time.Now()
	o.api.Write(100, 100, key)
	o.m.add(how+": answered", o.answered(key).Sub(began))
	for _, c := range o.api.Calls("sendChatAction") {
		if c.At.After(began) {
			o.m.add(how+": typing", c.At.Sub(began))
			break
		}
	}
	for _, c := range o.api.Calls("getUpdates")[confirms:] {
		if c.Params["offset"] != nil {
			o.m.add(how+": accepted", c.At.Sub(began))
			break
		}
	}
}

// direct posts a message to OpenClaw.
func (o *user) direct() {
	o.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: o.dialContext("shared/hook")}}
	key := o.key()
	raw, err := json.Marshal(map[string]any{"update_id": 900_000 + o.n, "message": map[string]any{"message_id": 900_000 + o.n, "date": time.Now().Unix(), "text": key,
		"from": map[string]any{"id": 100, "is_bot": false, "first_name": "U100"}, "chat": map[string]any{"id": 100, "type": "private", "first_name": "U100"}}})
	must(o.t, err)
	began := time.Now()
	must(o.t, postTo(client, raw, o.channel().WebhookSecret(workerID)))
	o.m.add("direct: accepted", time.Since(began))
	o.m.add("direct: answered", o.answered(key).Sub(began))
}
