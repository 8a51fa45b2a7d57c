package table

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mvm"
	"mvm/internal/guest/gateway/wire"
	"mvm/internal/guest/requestkey"
)

// maxToken bounds a token, in bytes.
const maxToken = 8 << 10

// minSecret is the least length of a secret for HS256 (RFC 7518).
const minSecret = 32

// verifier checks the tokens of one route. The algorithm is the route's: a key is made
// for it alone, and a token of another is refused.
type verifier struct {
	auth    mvm.Auth
	keys    []tokenKey
	problem string // why a key can't be used
}

// tokenKey reports whether the signature is that of the signed bytes.
type tokenKey func(signed, signature []byte) bool

// verifiers are those of the table's routes that take tokens.
func verifiers(routes mvm.RoutingTable, secrets map[string][]byte) map[string]*verifier {
	out := map[string]*verifier{}
	for _, r := range routes.Routes {
		if r.AuthMode() != mvm.AuthJWT {
			continue
		}
		v := &verifier{auth: r.Auth.WithDefaults()}
		for _, name := range r.Auth.Keys {
			keys, err := tokenKeys(v.auth.Algorithm, secrets[name])
			if err != nil {
				v.problem = "secret " + name + ": " + err.Error()
			}
			v.keys = append(v.keys, keys...)
		}
		out[r.Name] = v
	}
	return out
}

// maxPEMKeys bounds the public keys in one secret.
const maxPEMKeys = 8

// tokenKeys reads a secret as keys of the algorithm.
func tokenKeys(algorithm string, secret []byte) ([]tokenKey, error) {
	if len(secret) == 0 {
		return nil, errors.New("it is not there, or larger than a key")
	}
	if algorithm == mvm.AlgHS256 {
		if len(secret) < minSecret || strings.HasPrefix(string(secret), "-----BEGIN") {
			return nil, fmt.Errorf("HS256 needs %d random bytes or more, and no public key", minSecret)
		}
		return []tokenKey{func(signed, signature []byte) bool {
			mac := hmac.New(sha256.New, secret)
			mac.Write(signed)
			return hmac.Equal(mac.Sum(nil), signature)
		}}, nil
	}
	var out []tokenKey
	for block, rest := pem.Decode(secret); block != nil && len(out) < maxPEMKeys; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		public, ok := key.(ed25519.PublicKey)
		if block.Type != "PUBLIC KEY" || err != nil || !ok {
			return nil, errors.New("EdDSA needs Ed25519 public keys in PEM, as `openssl pkey -pubout` writes them")
		}
		out = append(out, func(signed, signature []byte) bool { return ed25519.Verify(public, signed, signature) })
	}
	if len(out) == 0 {
		return nil, errors.New("it has no PEM block with an Ed25519 public key")
	}
	return out, nil
}

// unauthorized asks the client for a token, or a better one.
func unauthorized(format string, args ...any) *wire.Refusal {
	e := wire.Refused(http.StatusUnauthorized, 0, format, args...)
	e.Challenge = `Bearer error="invalid_token"`
	return e
}

func invalidToken() *wire.Refusal { return unauthorized("the token is not valid") }

// verify returns the user that the request's token names. The error is a *wire.Refusal.
func (v *verifier) verify(req *http.Request, now time.Time) (string, error) {
	token, err := v.token(req)
	if err != nil {
		return "", err
	}
	parts := strings.Split(token, ".")
	if len(token) > maxToken || len(parts) != 3 {
		return "", invalidToken()
	}
	var raw [3][]byte
	for n, p := range parts {
		if raw[n], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return "", invalidToken()
		}
	}
	if !v.takes(raw[0]) || !v.signed([]byte(token[:len(parts[0])+1+len(parts[1])]), raw[2]) {
		return "", invalidToken()
	}
	return v.user(raw[1], now)
}

// token finds the token of a request; there must be one.
func (v *verifier) token(req *http.Request) (string, error) {
	kind, name, _ := strings.Cut(v.auth.Token, ":")
	var found []string
	if kind == "header" {
		found = req.Header.Values(name)
	} else {
		for _, c := range req.CookiesNamed(name) {
			found = append(found, c.Value)
		}
	}
	if len(found) != 1 {
		e := unauthorized("a token is needed, and there are %d", len(found))
		e.Challenge = "Bearer"
		return "", e
	}
	if kind == "header" && strings.EqualFold(name, "authorization") {
		scheme, token, ok := strings.Cut(found[0], " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			e := unauthorized("a token is needed, as Bearer")
			e.Challenge = "Bearer"
			return "", e
		}
		return token, nil
	}
	return found[0], nil
}

// takes reports whether the token's header says the route's algorithm, and asks for
// nothing that is not known here.
func (v *verifier) takes(header []byte) bool {
	alg, err := requestkey.OfJSON(header, "/alg")
	if err != nil || alg != v.auth.Algorithm {
		return false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(header, &members) != nil {
		return false
	}
	_, critical := members["crit"]
	_, detached := members["b64"]
	return !critical && !detached
}

func (v *verifier) signed(signed, signature []byte) bool {
	ok := false
	for _, key := range v.keys {
		ok = key(signed, signature) || ok
	}
	return ok
}

// user checks the claims of a token that is signed, and returns its user.
func (v *verifier) user(claims []byte, now time.Time) (string, error) {
	leeway := time.Duration(v.auth.LeewaySeconds) * time.Second
	expires, err := timeClaim(claims, "exp")
	if err != nil {
		return "", unauthorized("the token has no time at which it ends (exp)")
	}
	if !now.Before(expires.Add(leeway)) {
		return "", unauthorized("the token is expired")
	}
	starts, err := timeClaim(claims, "nbf")
	if err != nil && !errors.Is(err, requestkey.ErrNoValue) || err == nil && now.Before(starts.Add(-leeway)) {
		return "", unauthorized("the token is not valid yet")
	}
	if iss, err := requestkey.OfJSON(claims, "/iss"); v.auth.Issuer != "" && (err != nil || iss != v.auth.Issuer) {
		return "", unauthorized("the token is of another issuer")
	}
	if v.auth.Audience != "" && !hasAudience(claims, v.auth.Audience) {
		return "", unauthorized("the token is for another audience")
	}
	user, err := requestkey.OfJSON(claims, "/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(v.auth.Claim))
	if err != nil || mvm.ValidateKey(user) != nil {
		return "", unauthorized("the token has no claim that names a user")
	}
	return user, nil
}

// timeClaim returns a NumericDate (RFC 7519) of whole seconds.
func timeClaim(claims []byte, name string) (time.Time, error) {
	text, err := requestkey.OfJSON(claims, "/"+name)
	if err != nil {
		return time.Time{}, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt32*100 {
		return time.Time{}, requestkey.ErrNotKey
	}
	return time.Unix(n, 0), nil
}

// hasAudience reports whether the audience is, or is among, those of the claims.
func hasAudience(claims []byte, want string) bool {
	if one, err := requestkey.OfJSON(claims, "/aud"); err == nil {
		return one == want
	}
	var all struct {
		Aud []string `json:"aud"`
	}
	if json.Unmarshal(claims, &all) != nil {
		return false
	}
	for _, a := range all.Aud {
		if a == want {
			return true
		}
	}
	return false
}
