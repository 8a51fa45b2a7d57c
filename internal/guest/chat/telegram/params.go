package telegram

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
)

// chatParams are the parameters that name a chat.
var chatParams = map[string]bool{"chat_id": true, "from_chat_id": true}

// chats returns the chats that a request names, and its body to be read again.
func (p *proxy) chats(r *http.Request, body io.Reader) (ids []string, again io.Reader, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, nil, err
	}
	ids = ofValues(query)
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.Method == http.MethodGet || r.ContentLength == 0:
		return ids, http.NoBody, nil
	case err != nil:
		return nil, nil, errors.New("its Content-Type is not valid")
	}
	most := int64(maxSmall)
	if kind == "multipart/form-data" {
		select {
		case p.forms <- struct{}{}:
			defer func() { <-p.forms }()
		case <-r.Context().Done():
			return nil, nil, r.Context().Err()
		}
		most = maxRequest
	}
	b, err := io.ReadAll(io.LimitReader(body, most+1))
	if err == nil && int64(len(b)) > most {
		err = errors.New("it is too large")
	}
	if err != nil {
		return nil, nil, err
	}
	if kind == "application/json" {
		v, err := decode(b)
		if err != nil {
			return nil, nil, err
		}
		collect(v, &ids)
		b, err = json.Marshal(v) // what was looked at, without names that are given twice
		return ids, bytes.NewReader(b), err
	}
	more, err := ofBody(kind, params["boundary"], b)
	return append(ids, more...), bytes.NewReader(b), err
}

func ofBody(kind, boundary string, b []byte) (ids []string, err error) {
	switch kind {
	case "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(b))
		return ofValues(form), err
	case "multipart/form-data":
		return ofForm(b, boundary)
	}
	return nil, errors.New("its Content-Type is not one of the Bot API")
}

func ofValues(v url.Values) (ids []string) {
	for name, values := range v {
		for _, text := range values {
			if chatParams[strings.ToLower(name)] {
				ids = append(ids, text)
			} else {
				ofText(text, &ids)
			}
		}
	}
	return ids
}

func decode(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, errors.New("it is no JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it is more than one JSON value")
	}
	return v, nil
}

// collect looks at every object: some methods name chats in objects of theirs.
func collect(v any, ids *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for name, e := range v {
			if chatParams[strings.ToLower(name)] {
				*ids = append(*ids, idText(e))
			} else {
				collect(e, ids)
			}
		}
	case []any:
		for _, e := range v {
			collect(e, ids)
		}
	case string:
		ofText(v, ids)
	}
}

func idText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return "?"
}

// ofText looks at a text that is an object or list: forms have them so.
func ofText(text string, ids *[]string) {
	if t := strings.TrimSpace(text); t == "" || t[0] != '{' && t[0] != '[' {
		return
	}
	if v, err := decode([]byte(text)); err == nil {
		if _, isText := v.(string); !isText {
			collect(v, ids)
		}
	}
}

// maxParts bounds the fields of a form.
const maxParts = 100

func ofForm(b []byte, boundary string) (ids []string, err error) {
	f := multipart.NewReader(bytes.NewReader(b), boundary)
	for n := 0; ; n++ {
		part, err := f.NextRawPart()
		if errors.Is(err, io.EOF) {
			return ids, nil
		}
		if err != nil || n == maxParts {
			return nil, errors.New("it is no form of the Bot API")
		}
		if part.FileName() != "" {
			continue
		}
		value, err := io.ReadAll(io.LimitReader(part, maxSmall))
		if err != nil {
			return nil, errors.New("it is no form of the Bot API")
		}
		if chatParams[strings.ToLower(part.FormName())] {
			ids = append(ids, string(value))
		} else {
			ofText(string(value), &ids)
		}
	}
}
