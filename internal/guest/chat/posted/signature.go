package posted

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// Headers of signatures.
const (
	slackSignature = "X-Slack-Signature"
	slackTime      = "X-Slack-Request-Timestamp"
	hubSignature   = "X-Hub-Signature-256"
	lineSignature  = "X-Line-Signature"
	hookSignature  = "Webhook-Signature"
	hookTime       = "Webhook-Timestamp"
	hookID         = "Webhook-Id"
)

var errSignature = errors.New("its signature is wrong")

func mac(secret []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, secret)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// same compares in constant time.
func same(got string, want []byte) error {
	if !hmac.Equal([]byte(got), want) {
		return errSignature
	}
	return nil
}

// one returns the only value of a header.
func one(h http.Header, name string) (string, error) {
	if v := h.Values(name); len(v) == 1 && v[0] != "" {
		return v[0], nil
	}
	return "", fmt.Errorf("it has no %s, or several", name)
}

// stamp returns the time in the header as it is written there, unless it is too far off.
func stamp(h http.Header, name string, now time.Time) ([]byte, error) {
	text, err := one(h, name)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || len(text) > 12 || now.Sub(time.Unix(n, 0)).Abs() > maxSkew {
		return nil, fmt.Errorf("its %s is more than %s off", name, maxSkew)
	}
	return []byte(text), nil
}

func checkSlack(secret []byte, r Request, now time.Time) error {
	at, err := stamp(r.Header, slackTime, now)
	if err != nil {
		return err
	}
	got, err := one(r.Header, slackSignature)
	if err != nil {
		return err
	}
	return same(got, slackMAC(secret, at, r.Body))
}

func slackMAC(secret, at, body []byte) []byte {
	return []byte("v0=" + hex.EncodeToString(mac(secret, []byte("v0:"), at, []byte(":"), body)))
}

func signSlack(h http.Header, secret []byte, _ string, body []byte, now time.Time) {
	at := strconv.FormatInt(now.Unix(), 10)
	h.Set(slackTime, at)
	h.Set(slackSignature, string(slackMAC(secret, []byte(at), body)))
}

func checkHub(secret []byte, r Request, _ time.Time) error {
	got, err := one(r.Header, hubSignature)
	if err != nil {
		return err
	}
	return same(got, hubMAC(secret, r.Body))
}

func hubMAC(secret, body []byte) []byte {
	return []byte("sha256=" + hex.EncodeToString(mac(secret, body)))
}

func signHub(h http.Header, secret []byte, _ string, body []byte, _ time.Time) {
	h.Set(hubSignature, string(hubMAC(secret, body)))
}

func checkLine(secret []byte, r Request, _ time.Time) error {
	got, err := one(r.Header, lineSignature)
	if err != nil {
		return err
	}
	return same(got, base64MAC(secret, r.Body))
}

func base64MAC(secret []byte, parts ...[]byte) []byte {
	return base64.StdEncoding.AppendEncode(nil, mac(secret, parts...))
}

func signLine(h http.Header, secret []byte, _ string, body []byte, _ time.Time) {
	h.Set(lineSignature, string(base64MAC(secret, body)))
}

// maxSignatures bounds the signatures of one request, of which one must be right: there are
// several while a secret is replaced.
const maxSignatures = 8

func checkStandard(secret []byte, r Request, now time.Time) error {
	id, err := one(r.Header, hookID)
	if err != nil {
		return err
	}
	at, err := stamp(r.Header, hookTime, now)
	if err != nil {
		return err
	}
	list, err := one(r.Header, hookSignature)
	if err != nil {
		return err
	}
	want := standardMAC(secret, id, at, r.Body)
	for n, got := range strings.Fields(list) {
		if n == maxSignatures {
			break
		}
		if same(got, want) == nil {
			return nil
		}
	}
	return errSignature
}

func standardMAC(secret []byte, id string, at, body []byte) []byte {
	return append([]byte("v1,"), base64MAC(standardKey(secret), []byte(id), []byte("."), at, []byte("."), body)...)
}

// standardKey is the key of a secret, which has it in base64 after "whsec_".
func standardKey(secret []byte) []byte {
	if text, ok := bytes.CutPrefix(secret, []byte("whsec_")); ok {
		if key, err := base64.StdEncoding.DecodeString(string(text)); err == nil && len(key) > 0 {
			return key
		}
	}
	return secret
}

func signStandard(h http.Header, secret []byte, id string, body []byte, now time.Time) {
	at := strconv.FormatInt(now.Unix(), 10)
	h.Set(hookID, id)
	h.Set(hookTime, at)
	h.Set(hookSignature, string(standardMAC(secret, id, []byte(at), body)))
}

func checkBearer(secret []byte, r Request, _ time.Time) error {
	got, err := one(r.Header, "Authorization")
	if err != nil {
		return err
	}
	scheme, token, _ := strings.Cut(got, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return errors.New("its Authorization is no Bearer")
	}
	sum, want := sha256.Sum256([]byte(token)), sha256.Sum256(secret) // of equal length
	return same(string(sum[:]), want[:])
}

func signBearer(h http.Header, secret []byte, _ string, _ []byte, _ time.Time) {
	h.Set("Authorization", "Bearer "+string(secret))
}

// verification answers Meta's question whether the address is the app's.
func verification(c guestproto.Channel, r Request) (Post, error) {
	want, err := c.BareVerify()
	if err != nil {
		return Post{}, err
	}
	got, sum := sha256.Sum256([]byte(r.Query.Get("hub.verify_token"))), sha256.Sum256(want)
	if r.Query.Get("hub.mode") != "subscribe" || same(string(got[:]), sum[:]) != nil {
		return Post{}, mvm.Errorf(mvm.KindPolicy, "not from the platform: its verify token is wrong")
	}
	p := Post{Answer: r.Query.Get("hub.challenge")}
	if p.Answer == "" {
		return Post{}, mvm.Errorf(mvm.KindInvalid, "the request has no hub.challenge")
	}
	return checked(p)
}
