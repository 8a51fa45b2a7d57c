package gateway_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/gateway"
)

// claims of a token, and how it is signed.
type claims map[string]any

func part(v any) string {
	b, ok := v.([]byte)
	if !ok {
		b, _ = json.Marshal(v)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func hs256(secret []byte, header, body any) string {
	signed := part(header) + "." + part(body)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(signed))
	return signed + "." + part(mac.Sum(nil))
}

func eddsa(key ed25519.PrivateKey, header, body any) string {
	signed := part(header) + "." + part(body)
	return signed + "." + part(ed25519.Sign(key, []byte(signed)))
}

func newKey(t *testing.T, seed byte) (ed25519.PrivateKey, []byte) {
	t.Helper()
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed)), 32)))
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// tokenLab has a route by the header x-mvm-user that asks for tokens.
func tokenLab(t *testing.T, auth mvm.Auth, keys map[string][]byte) (*lab, chan *http.Request) {
	route := webRoute("users", 80, "/", byKey("header:x-mvm-user"))
	route.Auth = &auth
	l := newLab(t, gateway.Limits{}, route)
	c := l.config(route)
	c.RouteKeys = keys
	if err := l.router.Configure(c); err != nil {
		t.Fatal(err)
	}
	seen := make(chan *http.Request, 1)
	l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen <- r; fmt.Fprint(w, "served") }))
	return l, seen
}

func TestTokensNameTheUser(t *testing.T) {
	key, public := newKey(t, 0)
	_, older := newKey(t, 1)
	other, _ := newKey(t, 2)
	now := time.Now().Unix()
	good := claims{"sub": "ann@example.org", "exp": now + 60, "iss": "https://id", "aud": []string{"x", "mvm"}}
	with := func(change claims) claims {
		out := claims{}
		for k, v := range good {
			out[k] = v
		}
		for k, v := range change {
			if out[k] = v; v == nil {
				delete(out, k)
			}
		}
		return out
	}
	h := claims{"alg": "EdDSA", "typ": "JWT"}
	token := eddsa(key, h, good)
	parts := strings.Split(token, ".")
	auth := mvm.Auth{Mode: mvm.AuthJWT, Algorithm: mvm.AlgEdDSA, Keys: []string{"new", "old"}, Issuer: "https://id", Audience: "mvm"}
	l, seen := tokenLab(t, auth, map[string][]byte{"new": public, "old": older})
	for _, c := range []struct {
		what, token string
		status      int
		header      []string
	}{
		{"good", token, 200, nil},
		{"good, and the same user in the request", token, 200, []string{"X-Mvm-User", "ann@example.org"}},
		{"audience as one string", eddsa(key, h, with(claims{"aud": "mvm"})), 200, nil},
		{"within the leeway after its end", eddsa(key, h, with(claims{"exp": now - 20})), 200, nil},
		{"within the leeway before its start", eddsa(key, h, with(claims{"nbf": now + 20})), 200, nil},
		{"another user in the request", token, 403, []string{"X-Mvm-User", "bob@example.org"}},
		{"two users in the request", token, 400, []string{"X-Mvm-User", "ann@example.org", "X-Mvm-User", "bob"}},
		{"no token", "", 401, []string{"X-Mvm-User", "ann@example.org"}},
		{"two tokens", token, 401, []string{"Authorization", "Bearer " + token}},
		{"not Bearer", "", 401, []string{"Authorization", "Basic " + token}},
		{"expired", eddsa(key, h, with(claims{"exp": now - 40})), 401, nil},
		{"not yet", eddsa(key, h, with(claims{"nbf": now + 40})), 401, nil},
		{"nbf is no time", eddsa(key, h, with(claims{"nbf": "soon"})), 401, nil},
		{"without an end", eddsa(key, h, with(claims{"exp": nil})), 401, nil},
		{"an end that is no time", eddsa(key, h, with(claims{"exp": "never"})), 401, nil},
		{"an end far out", eddsa(key, h, with(claims{"exp": json.Number("99999999999999999999")})), 401, nil},
		{"another issuer", eddsa(key, h, with(claims{"iss": "https://evil"})), 401, nil},
		{"no issuer", eddsa(key, h, with(claims{"iss": nil})), 401, nil},
		{"another audience", eddsa(key, h, with(claims{"aud": []string{"x"}})), 401, nil},
		{"an audience that is no text", eddsa(key, h, with(claims{"aud": []any{1, "mvm"}})), 401, nil},
		{"no audience", eddsa(key, h, with(claims{"aud": nil})), 401, nil},
		{"no user", eddsa(key, h, with(claims{"sub": nil})), 401, nil},
		{"a user that is no key", eddsa(key, h, with(claims{"sub": "a/b"})), 401, nil},
		{"a user that is a list", eddsa(key, h, with(claims{"sub": []string{"ann"}})), 401, nil},
		{"two users", eddsa(key, h, []byte(fmt.Sprintf(`{"sub":"bob","sub":"ann","exp":%d,"iss":"https://id","aud":"mvm"}`, now+60))), 401, nil},
		{"another key", eddsa(other, h, good), 401, nil},
		{"alg none", part(claims{"alg": "none"}) + "." + parts[1] + ".", 401, nil},
		{"alg None with the signature", part(claims{"alg": "None"}) + "." + parts[1] + "." + parts[2], 401, nil},
		{"the public key as a secret", hs256(public, claims{"alg": "HS256"}, good), 401, nil},
		{"the public key as a secret, said to be EdDSA", hs256(public, h, good), 401, nil},
		{"alg twice", eddsa(key, []byte(`{"alg":"none","alg":"EdDSA"}`), good), 401, nil},
		{"alg in other case", eddsa(key, claims{"Alg": "EdDSA"}, good), 401, nil},
		{"crit", eddsa(key, claims{"alg": "EdDSA", "crit": []string{"exp"}}, good), 401, nil},
		{"b64", eddsa(key, claims{"alg": "EdDSA", "b64": false}, good), 401, nil},
		{"changed claims", parts[0] + "." + part(with(claims{"sub": "bob"})) + "." + parts[2], 401, nil},
		{"signature with another last bit", token[:len(token)-1] + string(rune(token[len(token)-1]+1)), 401, nil},
		{"padding", token + "==", 401, nil},
		{"two parts", parts[0] + "." + parts[1], 401, nil},
		{"four parts", token + ".x", 401, nil},
		{"large", eddsa(key, h, with(claims{"x": strings.Repeat("x", 9000)})), 401, nil},
		{"no JSON", eddsa(key, h, []byte("ann")), 401, nil},
	} {
		header := c.header
		if c.token != "" {
			header = append([]string{"Authorization", "Bearer " + c.token}, header...)
		}
		before := len(l.host.asked())
		status, got, body := l.do("GET", 80, "/", "", header...)
		if status != c.status {
			t.Errorf("%s: %d %q, want %d", c.what, status, body, c.status)
		}
		if status == 401 && !strings.HasPrefix(got.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: no challenge: %v", c.what, got)
		}
		select {
		case r := <-seen:
			if r.Header.Get("Authorization") != "" || r.Header.Get("X-Mvm-User") != "ann@example.org" {
				t.Errorf("%s: the instance got %v", c.what, r.Header)
			}
			for _, a := range l.host.asked()[before:] {
				if a.Key != "ann@example.org" {
					t.Errorf("%s: asked for %q", c.what, a.Key)
				}
			}
		default:
			if c.status == 200 || len(l.host.asked()) > before {
				t.Errorf("%s: served %v, asked %v", c.what, c.status, l.host.asked()[before:])
			}
		}
	}
}

// A key is replaced while the gateway runs: with both there tokens of either are taken,
// and once the old one is gone its tokens are not.
func TestTokenKeysAreRotated(t *testing.T) {
	secret := func(n byte) []byte { return []byte(strings.Repeat(string(rune('a'+n)), 40)) }
	auth := mvm.Auth{Mode: mvm.AuthJWT, Algorithm: mvm.AlgHS256, Keys: []string{"k1", "k2"}, Claim: "https://id/user", Token: "cookie:session"}
	l, seen := tokenLab(t, auth, nil)
	route := webRoute("users", 80, "/", byKey("header:x-mvm-user"))
	route.Auth = &auth
	by := func(secret []byte) int {
		token := hs256(secret, claims{"alg": "HS256"}, claims{"https://id/user": "ann", "exp": time.Now().Unix() + 60})
		status, _, _ := l.do("GET", 80, "/", "", "Cookie", "theme=dark; session ="+token+"; lang=de") // the space is none of the name
		if status == 200 {
			if r := <-seen; r.Header.Get("Cookie") != "theme=dark; lang=de" || r.Header.Get("X-Mvm-User") != "ann" {
				t.Errorf("the instance got %v", r.Header)
			}
		}
		return status
	}
	for n, c := range []struct {
		keys     map[string][]byte
		old, new int
	}{
		{nil, 503, 503},
		{map[string][]byte{"k1": secret(0)}, 200, 401},
		{map[string][]byte{"k1": secret(0), "k2": secret(1)}, 200, 200},
		{map[string][]byte{"k2": secret(1)}, 401, 200},
		{map[string][]byte{"k1": []byte("too short")}, 503, 503},
	} {
		cfg := l.config(route)
		cfg.RouteKeys = c.keys
		if err := l.router.Configure(cfg); err != nil {
			t.Fatal(err)
		}
		if old, new := by(secret(0)), by(secret(1)); old != c.old || new != c.new {
			t.Errorf("step %d: old key %d, new key %d; want %d, %d", n, old, new, c.old, c.new)
		}
	}
}

// A trusted proxy names users; whoever else reaches the port is refused, whatever it says.
func TestOnlyTheTrustedProxyNamesUsers(t *testing.T) {
	for _, c := range []struct {
		trusted string
		status  int
	}{{"127.0.0.0/8", 200}, {"192.0.2.0/24", 403}, {"::1/128", 403}} {
		l, seen := tokenLab(t, mvm.Auth{Mode: mvm.AuthProxy, Trusted: []netip.Prefix{netip.MustParsePrefix(c.trusted)}}, nil)
		status, _, body := l.do("GET", 80, "/", "", "X-Mvm-User", "ann@example.org", "X-Forwarded-For", "192.0.2.1")
		if status != c.status || (len(l.host.asked()) > 0) != (c.status == 200) {
			t.Errorf("trusted %s: %d %q, asked %v; want %d", c.trusted, status, body, l.host.asked(), c.status)
		}
		if status == 200 {
			<-seen
		}
	}
}

// What led to an instance is what the instance is told, whatever a client has its
// connection header remove or says in other words.
func TestTheUserArrivesAsItRouted(t *testing.T) {
	l := newLab(t, gateway.Limits{}, webRoute("users", 80, "/", byKey("header:x-mvm-user")), webRoute("team", 81, "/", byKey("header:x-team")),
		webRoute("path", 82, "/", byKey("path")))
	seen := make(chan *http.Request, 1)
	l.instance(ip3, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r }))
	for _, c := range []struct {
		what  string
		port  int
		path  string
		lines []string
	}{
		{"plain", 80, "/", []string{"X-Mvm-User: ann"}},
		{"removed", 80, "/", []string{"X-Mvm-User: ann", "Connection: X-Mvm-User, X-Forwarded-For, X-Forwarded-Proto"}},
		{"underscores", 80, "/", []string{"X-Mvm-User: ann", "X_Mvm_User: bob", "x_mvm-user: bob"}},
		{"in the path", 82, "/ann/x", []string{"X-Mvm-User: bob", "X_MVM_USER: bob"}},
		{"another header", 81, "/", []string{"X-Team: ann", "X_Team: bob", "X-Mvm-User: bob", "Connection: x-team"}},
		{"upgrade", 80, "/", []string{"X-Mvm-User: ann", "Connection: Upgrade, X-Mvm-User, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"}},
		{"upgrade to a list", 80, "/", []string{"X-Mvm-User: ann", "Connection: Upgrade", "Upgrade: websocket, H2C"}},
	} {
		if status, got := l.rawGet(c.port, c.path, c.lines...); status != 200 {
			t.Errorf("%s: %d %q", c.what, status, got)
			continue
		}
		r := <-seen
		for name, values := range r.Header {
			if strings.Contains(strings.ToLower(name), "user") && (name != "X-Mvm-User" || len(values) != 1 || values[0] != "ann") ||
				strings.Contains(strings.ToLower(name), "team") && (name != "X-Team" || len(values) != 1 || values[0] != "ann") {
				t.Errorf("%s: the instance got %s %q", c.what, name, values)
			}
		}
		if r.Header.Get("X-Mvm-User") != "ann" || r.Header.Get("X-Forwarded-For") != "127.0.0.1" || r.Header.Get("X-Forwarded-Proto") == "" {
			t.Errorf("%s: the instance got %v", c.what, r.Header)
		}
		if r.Header.Get("Upgrade") != "" || r.Header.Get("Http2-Settings") != "" {
			t.Errorf("%s: the offer of another protocol passed: %v", c.what, r.Header)
		}
	}
	if status, got := l.rawGet(80, "/", "X-Mvm-User: ann", "X-Mvm-User: bob"); status != 400 {
		t.Errorf("two users: %d %q, want 400", status, got)
	}
}
