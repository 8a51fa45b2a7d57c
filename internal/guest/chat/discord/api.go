package discord

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

// publicRoot is Discord's API.
const publicRoot = "https://discord.com/api/v10"

// Bounds of what the API answers.
const (
	maxResponse   = 8 << 20
	maxRetryAfter = 15 * time.Minute
	maxRoutes     = 1000 // of which is known when they may be called again
	callTimeout   = 30 * time.Second
)

// api calls Discord. No error of it has the token in it.
type api struct {
	http  *http.Client
	root  string
	token string

	mu    sync.Mutex
	after map[string]time.Time // when a route may be called again; "" is for all
}

func newAPI(client *http.Client, c guestproto.Channel) *api {
	token, _ := c.Bare() // none: nothing is asked
	root := strings.TrimSuffix(c.APIRoot, "/")
	if root == "" {
		root = publicRoot
	}
	return &api{http: client, root: root, token: string(token), after: map[string]time.Time{}}
}

// apiError is an answer that is no success.
type apiError struct {
	Status int
	Text   string
}

func (e *apiError) Error() string { return fmt.Sprintf("Discord answered %d: %s", e.Status, e.Text) }

// final reports that asking again is of no use.
func (e *apiError) final() bool {
	return e.Status/100 == 4 && e.Status != http.StatusUnauthorized && e.Status != http.StatusTooManyRequests && e.Status != http.StatusRequestTimeout
}

// gone reports that there is no such thing for this bot.
func gone(err error) bool {
	var said *apiError
	return errors.As(err, &said) && said.final()
}

// call makes a request, waits where Discord asks for it, and decodes the result where that
// is wanted.
func (a *api) call(ctx context.Context, method, path string, body, result any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return mvm.Errorf(mvm.KindInternal, "encode a request to Discord: %w", err)
		}
	}
	route := method + " " + path
	route, _, _ = strings.Cut(route, "?")
	for {
		if err := a.wait(ctx, route); err != nil {
			return err
		}
		again, err := a.once(ctx, route, method, path, text, result)
		if err != nil || !again {
			return err
		}
	}
}

// wait waits until the route may be called.
func (a *api) wait(ctx context.Context, route string) error {
	for {
		a.mu.Lock()
		until := a.after[route]
		if all := a.after[""]; all.After(until) {
			until = all
		}
		a.mu.Unlock()
		d := time.Until(until)
		if d <= 0 {
			return nil
		}
		if !chat.Wait(ctx, d) {
			return mvm.Errorf(mvm.KindUnavailable, "call Discord: it asks to wait for %s: %w", d.Round(time.Millisecond), context.Cause(ctx))
		}
	}
}

func (a *api) hold(route string, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if len(a.after) >= maxRoutes {
		for r, until := range a.after {
			if until.Before(now) {
				delete(a.after, r)
			}
		}
	}
	a.after[route] = now.Add(min(max(d, 0), maxRetryAfter))
}

// once makes the request once; again says that Discord asked to wait.
func (a *api) once(ctx context.Context, route, method, path string, body []byte, result any) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.root+path, bytes.NewReader(body))
	if err != nil {
		return false, mvm.Errorf(mvm.KindInternal, "make a request to Discord: %w", err)
	}
	req.Header.Set("Authorization", "Bot "+a.token)
	req.Header.Set("User-Agent", "DiscordBot (mvm, 1)")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return false, mvm.Errorf(mvm.KindUnavailable, "call Discord: %w", chat.WithoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err == nil && len(text) > maxResponse {
		err = errors.New("its answer is too large")
	}
	if err != nil {
		return false, mvm.Errorf(mvm.KindUnavailable, "call Discord: %w", err)
	}
	if resp.Header.Get("X-RateLimit-Remaining") == "0" {
		a.hold(route, seconds(resp.Header.Get("X-RateLimit-Reset-After")))
	}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		a.limited(route, resp.Header, text)
		return true, nil
	case resp.StatusCode/100 != 2:
		var said struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(text, &said)
		return false, &apiError{Status: resp.StatusCode, Text: chat.Clip(said.Message)}
	case result == nil:
		return false, nil
	}
	if err := json.Unmarshal(text, result); err != nil {
		return false, mvm.Errorf(mvm.KindUnavailable, "call Discord: its answer has another form")
	}
	return false, nil
}

// limited notes for how long Discord wants to be left alone.
func (a *api) limited(route string, head http.Header, text []byte) {
	var said struct {
		RetryAfter float64 `json:"retry_after"`
		Global     bool    `json:"global"`
	}
	_ = json.Unmarshal(text, &said)
	d := max(time.Duration(said.RetryAfter*float64(time.Second)), seconds(head.Get("Retry-After")), 100*time.Millisecond)
	if said.Global {
		route = ""
	}
	a.hold(route, d)
}

func seconds(text string) time.Duration {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n > 0 && n < maxRetryAfter.Seconds()) {
		return 0
	}
	return time.Duration(n * float64(time.Second))
}
