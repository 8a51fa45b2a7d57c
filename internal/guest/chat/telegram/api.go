package telegram

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

// publicRoot is the public Bot API server.
const publicRoot = "https://api.telegram.org"

// maxResponse bounds an answer of the Bot API, which may hold a hundred updates.
const maxResponse = 8 << 20

// maxRetryAfter bounds how long the Bot API may have us wait.
const maxRetryAfter = time.Hour

// api calls the Bot API. No error of it has the token in it.
type api struct {
	http  *http.Client
	root  string
	token string
}

func newAPI(client *http.Client, c guestproto.Channel) *api {
	root := strings.TrimSuffix(c.APIRoot, "/")
	if root == "" {
		root = publicRoot
	}
	token, _ := c.Bare()
	return &api{http: client, root: root, token: string(token)}
}

// apiError is an answer that is not ok.
type apiError struct {
	Code       int
	Text       string
	RetryAfter time.Duration
}

func (e *apiError) Error() string { return fmt.Sprintf("Telegram answered %d: %s", e.Code, e.Text) }

// answer is the form of every answer.
type answer struct {
	OK          bool            `json:"ok"`
	Result      json.RawMessage `json:"result"`
	ErrorCode   int             `json:"error_code"`
	Description string          `json:"description"`
	Parameters  struct {
		RetryAfter int `json:"retry_after"`
	} `json:"parameters"`
}

// call makes a request and decodes its result, where that is wanted.
func (a *api) call(ctx context.Context, method string, params map[string]any, result any) error {
	if params == nil {
		params = map[string]any{}
	}
	body, err := json.Marshal(params)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "encode %s: %w", method, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url("/bot"+a.token+"/"+method), bytes.NewReader(body))
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "make request %s to Telegram: its address is not valid", method)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "ask Telegram %s: %w", method, chat.WithoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err == nil && len(b) > maxResponse {
		err = errors.New("its answer is too large")
	}
	if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "ask Telegram %s: %w", method, chat.WithoutURL(err))
	}
	var got answer
	if err := json.Unmarshal(b, &got); err != nil {
		return &apiError{Code: resp.StatusCode, Text: "no answer of the Bot API"}
	}
	if !got.OK {
		return &apiError{Code: got.ErrorCode, Text: chat.Clip(got.Description), RetryAfter: min(time.Duration(max(got.Parameters.RetryAfter, 0))*time.Second, maxRetryAfter)}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(got.Result, result); err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "ask Telegram %s: its result has another form", method)
	}
	return nil
}

func (a *api) url(path string) string { return a.root + path }
