package main

import (
	"bufio"
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mvm/internal/guestproto"
)

// chatPort is where the gateway delivers messages.
const chatPort = ":8787"

// chat keeps OpenClaw's rules for a bot's messages: what it has answered with 200 is in its
// file, which it does not sync, a message that it knows is dropped, and after a crash the
// turns are made that were not. Each is answered through the gateway.
type chat struct {
	mu       sync.Mutex
	accepted *os.File
	answered *os.File
	known    map[int64]bool
	todo     []chatMessage
	news     chan struct{}
}

type chatMessage struct {
	ID   int64  `json:"id"`
	Chat int64  `json:"chat"`
	Text string `json:"text"`
}

// The flags by which mvm knows that a turn is under way, and the one that the tests set so
// that turns take long.
const (
	chatBusy = "/run/mvm/worker-busy"
	chatIdle = "/run/mvm/worker-idle"
	chatHold = "/data/hold"
)

// serveChat serves until that fails, where the instance has a channel.
func serveChat() error {
	c := &chat{known: map[int64]bool{}, news: make(chan struct{}, 1)}
	done := map[int64]bool{}
	if err := c.load("/data/answered", func(m chatMessage) { done[m.ID] = true }, &c.answered); err != nil {
		return err
	}
	err := c.load("/data/accepted", func(m chatMessage) {
		if c.known[m.ID] = true; !done[m.ID] {
			c.todo = append(c.todo, m)
		}
	}, &c.accepted)
	if err != nil {
		return err
	}
	go c.turns()
	return (&http.Server{Addr: chatPort, Handler: c, ReadHeaderTimeout: time.Minute}).ListenAndServe()
}

func (c *chat) load(path string, each func(chatMessage), file **os.File) (err error) {
	if *file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600); err != nil {
		return err
	}
	lines := bufio.NewScanner(*file)
	for lines.Scan() {
		var m chatMessage
		if json.Unmarshal(lines.Bytes(), &m) == nil { // the last line may have been cut off
			each(m)
		}
	}
	return lines.Err()
}

// bot is the channel that leads here.
func bot() (w guestproto.WorkerChannel, err error) {
	files, err := filepath.Glob("/run/secrets/channels/*.json")
	if err != nil || len(files) == 0 {
		return w, errors.Join(err, errors.New("no channel leads here"))
	}
	b, err := os.ReadFile(files[0])
	if err == nil {
		err = json.Unmarshal(b, &w)
	}
	return w, err
}

func (c *chat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := bot()
	if err != nil || r.URL.Path != b.Path || subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Telegram-Bot-Api-Secret-Token")), []byte(b.Secret)) != 1 {
		http.Error(w, fmt.Sprint("not from the gateway: ", err), http.StatusUnauthorized)
		return
	}
	var u struct {
		ID      int64 `json:"update_id"`
		Message struct {
			Text string `json:"text"`
			Chat struct {
				ID int64 `json:"id"`
			} `json:"chat"`
		} `json:"message"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&u); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := c.take(chatMessage{u.ID, u.Message.Chat.ID, u.Message.Text}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("X-Openclaw-Delivery-Accepted", "durable")
}

// take notes the message, without a sync.
func (c *chat) take(m chatMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known[m.ID] {
		return nil
	}
	if err := note(c.accepted, m); err != nil {
		return err
	}
	c.known[m.ID] = true
	c.todo = append(c.todo, m)
	select {
	case c.news <- struct{}{}:
	default:
	}
	return touch(chatBusy)
}

func note(f *os.File, m chatMessage) error {
	b, err := json.Marshal(m)
	if err == nil {
		_, err = f.Write(append(b, '\n'))
	}
	return err
}

func touch(path string) error {
	now := time.Now()
	return errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, now, now))
}

// turns answers what is to do, one message at a time.
func (c *chat) turns() {
	for {
		c.mu.Lock()
		if len(c.todo) == 0 {
			if err := touch(chatIdle); err != nil {
				fmt.Println("idle:", err)
			}
			c.mu.Unlock()
			<-c.news
			continue
		}
		m := c.todo[0]
		c.mu.Unlock()
		for _, err := os.Stat(chatHold); err == nil; _, err = os.Stat(chatHold) {
			time.Sleep(20 * time.Millisecond)
		}
		if err := answer(m); err != nil {
			fmt.Println("answer:", err)
			time.Sleep(200 * time.Millisecond)
			continue
		}
		c.mu.Lock()
		if err := note(c.answered, m); err != nil {
			fmt.Println("note:", err)
		}
		c.todo = c.todo[1:]
		c.mu.Unlock()
	}
}

// answer sends what was heard, with the token that only the gateway takes.
func answer(m chatMessage) error {
	b, err := bot()
	if err != nil {
		return err
	}
	text, err := json.Marshal(map[string]any{"chat_id": m.Chat, "text": "heard: " + m.Text})
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Post(b.APIRoot+"/bot"+b.Token+"/sendMessage", "application/json", bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s, %w", resp.Status, said, err)
	}
	return nil
}
