package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// HTTPPost posts a value as JSON to a URL on loopback and returns the first bytes of a
// 2xx answer. Any other answer is an error that says what it said.
func HTTPPost(ctx context.Context, url string, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return httpDo(ctx, http.MethodPost, url, b)
}

func httpDo(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	if err != nil || resp.StatusCode/100 == 2 {
		return text, err
	}
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(text, &said) == nil && said.Error != "" {
		return text, fmt.Errorf("%s: %s", resp.Status, said.Error)
	}
	return text, errors.New(strings.TrimSpace(resp.Status + " " + Clip(string(text))))
}

// HTTPGet gets a URL on loopback and returns the first bytes of a 2xx answer.
func HTTPGet(ctx context.Context, url string) ([]byte, error) {
	return httpDo(ctx, http.MethodGet, url, nil)
}
