package guestproto_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mvm"
	"mvm/internal/guestproto"
)

var equal = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

// The wire forms that formats.md fixes.
func TestFixedWireForms(t *testing.T) {
	at := time.Date(2026, 2, 11, 10, 0, 0, 0, time.UTC)
	name := &guestproto.InstanceName{TenantID: "alice", PoolID: "workers", InstanceID: "i-a3f7b2c1"}
	for _, c := range []struct {
		message any
		want    string
	}{
		{guestproto.Request{Ping: true}, `"Ping"`},
		{guestproto.Response{Pong: true}, `"Pong"`},
		{guestproto.Request{WorkerStatus: true}, `"WorkerStatus"`},
		{guestproto.Response{WorkerStatus: &guestproto.WorkerStatus{Status: "idle", LastBusyAt: &at}},
			`{"WorkerStatus":{"status":"idle","last_busy_at":"2026-02-11T10:00:00Z"}}`},
		{guestproto.Response{WorkerStatus: &guestproto.WorkerStatus{Status: "busy", Reason: "worker-busy is set"}},
			`{"WorkerStatus":{"status":"busy","last_busy_at":null,"reason":"worker-busy is set"}}`},
		{guestproto.Request{SleepPrep: &guestproto.SleepPrep{DrainTimeoutSecs: 30}}, `{"SleepPrep":{"drain_timeout_secs":30}}`},
		{guestproto.Response{SleepPrepAck: &guestproto.SleepPrepAck{Success: true}}, `{"SleepPrepAck":{"success":true,"detail":null}}`},
		{guestproto.Response{SleepPrepAck: &guestproto.SleepPrepAck{Success: true, NextWake: at}},
			`{"SleepPrepAck":{"success":true,"detail":null,"next_wake":"2026-02-11T10:00:00Z"}}`},
		{guestproto.Request{Wake: true}, `"Wake"`},
		{guestproto.Response{WakeAck: &guestproto.WakeAck{Success: true}}, `{"WakeAck":{"success":true}}`},
		{guestproto.Request{IntegrationStatus: true}, `"IntegrationStatus"`},
		{guestproto.Response{IntegrationStatusReport: &guestproto.IntegrationStatusReport{Integrations: []guestproto.IntegrationState{
			{Name: "telegram", Status: json.RawMessage(`"active"`)}}}},
			`{"IntegrationStatusReport":{"integrations":[{"name":"telegram","status":"active","last_checkpoint_at":null,"state_size_bytes":0}]}}`},
		{guestproto.Request{CheckpointIntegrations: &guestproto.CheckpointIntegrations{Integrations: []string{"telegram"}}},
			`{"CheckpointIntegrations":{"integrations":["telegram"]}}`},
		{guestproto.Response{CheckpointResult: &guestproto.CheckpointResult{Success: true, Failed: []string{}}},
			`{"CheckpointResult":{"success":true,"failed":[],"detail":null}}`},
		{guestproto.Response{Error: &guestproto.Error{Message: "no"}}, `{"Error":{"message":"no"}}`},
		{guestproto.HostRequest{WakeInstance: name},
			`{"WakeInstance":{"tenant_id":"alice","pool_id":"workers","instance_id":"i-a3f7b2c1"}}`},
		{guestproto.HostResponse{WakeResult: &guestproto.Ack{Success: true}}, `{"WakeResult":{"success":true,"detail":null}}`},
		{guestproto.HostRequest{QueryInstanceStatus: name},
			`{"QueryInstanceStatus":{"tenant_id":"alice","pool_id":"workers","instance_id":"i-a3f7b2c1"}}`},
		{guestproto.HostResponse{InstanceStatus: &guestproto.InstanceStatus{Status: mvm.StateSleeping, GuestIP: netip.MustParseAddr("10.240.5.3")}},
			`{"InstanceStatus":{"status":"sleeping","guest_ip":"10.240.5.3"}}`},
		{guestproto.HostResponse{ActivityAck: true}, `"ActivityAck"`},
	} {
		got, err := guestproto.Encode(c.message)
		if err != nil || string(got) != c.want {
			t.Errorf("Encode = %s, %v\nwant %s", got, err, c.want)
		}
		back := newLike(c.message)
		if err := guestproto.Decode([]byte(c.want), back); err != nil {
			t.Errorf("Decode %s: %v", c.want, err)
		}
		if again, err := guestproto.Encode(back); err != nil || string(again) != c.want {
			t.Errorf("%s comes back as %s, %v", c.want, again, err)
		}
	}
}

func newLike(message any) any {
	switch message.(type) {
	case guestproto.Request:
		return new(guestproto.Request)
	case guestproto.Response:
		return new(guestproto.Response)
	case guestproto.HostRequest:
		return new(guestproto.HostRequest)
	}
	return new(guestproto.HostResponse)
}

func TestConfigureRoundTrip(t *testing.T) {
	want := guestproto.Request{Configure: &guestproto.Configure{
		Reason: "wake", UnixNanos: 1, Entropy: []byte{1, 2, 3}, TenantID: "alice", PoolID: "workers", InstanceID: "i-a3f7b2c1",
		Role: mvm.RoleGateway, Hostname: "alice-workers", Generation: 3,
		Net: &guestproto.Net{MAC: "02:fc:00:05:00:03", Address: netip.MustParsePrefix("10.240.5.3/24"),
			Gateway: netip.MustParseAddr("10.240.5.1"), DNS: []netip.Addr{netip.MustParseAddr("10.240.5.1")}, MTU: 1500},
		Secrets: map[string][]byte{"a/B": {0, 255}}, Env: map[string]string{"A": "1", "a": "2"},
		Routes: &mvm.RoutingTable{Routes: []mvm.Route{{Name: "r", Match: mvm.MatchRule{Port: 8080},
			To: mvm.Target{PoolID: "workers", Selector: mvm.Selector{Kind: mvm.SelectByKey, From: "path"}, TargetPort: 80}}}},
		ListenPorts: []int{8080},
	}}
	b, err := guestproto.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	var got guestproto.Request
	if err := guestproto.Decode(b, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, equal); d != "" {
		t.Errorf("Configure comes back changed (-want +got):\n%s", d)
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("[", 50) + strings.Repeat("]", 50)
	for _, c := range []struct{ name, in, want string }{
		{"nothing", "", "unexpected end"},
		{"unknown unit", `"Pang"`, "no such variant"},
		{"unknown object", `{"Reboot":{}}`, "no such variant"},
		{"other case", `"ping"`, "no such variant"},
		{"number", `5`, "want a string or an object"},
		{"null", `null`, "want a string or an object"},
		{"array", `["Ping"]`, "want a string or an object"},
		{"empty object", `{}`, "0 keys"},
		{"two variants", `{"SleepPrep":{},"Exec":{}}`, "2 keys"},
		{"variant twice", `{"SleepPrep":{},"SleepPrep":{}}`, "twice"},
		{"field twice", `{"SleepPrep":{"drain_timeout_secs":1,"drain_timeout_secs":2}}`, "twice"},
		{"deep field twice", `{"Configure":{"env":{"a":"1","b":{},"a":"2"}}}`, "twice"},
		{"broken key twice", "{\"Configure\":{\"env\":{\"\xff\":\"1\",\"\xfe\":\"2\"}}}", "twice"},
		{"escaped key twice", `{"SleepPrep":{"a":1,"\u0061":2}}`, "twice"},
		{"unit with fields", `{"Ping":{}}`, "has no fields"},
		{"unit with null", `{"Ping":null}`, "no object"},
		{"fields missing", `"SleepPrep"`, "needs fields"},
		{"fields null", `{"SleepPrep":null}`, "no object"},
		{"fields an array", `{"SleepPrep":[]}`, "no object"},
		{"wrong type", `{"SleepPrep":{"drain_timeout_secs":"1"}}`, "cannot unmarshal"},
		{"trailing bytes", `"Ping" "Ping"`, "after top-level"},
		{"trailing brace", `{"SleepPrep":{}}}`, "after top-level"},
		{"deep", `{"SleepPrep":{"x":` + deep + `}}`, "nested deeper"},
		{"long unknown name", `"` + strings.Repeat("x", 10_000) + `"`, "no such variant"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := guestproto.Request{Ping: true}
			err := guestproto.Decode([]byte(c.in), &req)
			if !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Decode = %v, want invalid with %q", err, c.want)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if !req.Ping {
				t.Error("a refused message changed the target")
			}
		})
	}
}

func TestDecodeNamesUnknownVariant(t *testing.T) {
	var v *guestproto.VariantError
	err := guestproto.Decode([]byte(`{"Reboot":{}}`), new(guestproto.Request))
	if !errors.As(err, &v) || v.Variant != "Reboot" || v.Message != "Request" {
		t.Errorf("Decode = %v, want a VariantError naming Reboot", err)
	}
}

func TestUnknownFieldIsIgnored(t *testing.T) {
	var req guestproto.Request
	err := guestproto.Decode([]byte(`{"SleepPrep":{"drain_timeout_secs":3,"newer":[1]}}`), &req)
	if err != nil || req.SleepPrep.DrainTimeoutSecs != 3 {
		t.Errorf("Decode = %+v, %v", req.SleepPrep, err)
	}
}

// A gateway of an mvm that knows no authentication gets no route where one asks for it.
func TestOldGatewaysGetNoGuardedRoutes(t *testing.T) {
	table := func(auth *mvm.Auth) *mvm.RoutingTable {
		to := mvm.Target{PoolID: "workers", Selector: mvm.Selector{Kind: mvm.SelectAny}, TargetPort: 80}
		return &mvm.RoutingTable{Routes: []mvm.Route{{Name: "open", Match: mvm.MatchRule{Port: 80}, To: to},
			{Name: "asks", Match: mvm.MatchRule{Port: 81}, To: to, Auth: auth}}}
	}
	for _, c := range []struct {
		auth *mvm.Auth
		old  int // routes
	}{
		{nil, 2},
		{&mvm.Auth{Mode: mvm.AuthNone}, 2},
		{&mvm.Auth{Mode: mvm.AuthJWT, Algorithm: mvm.AlgHS256, Keys: []string{"key"}}, 0},
		{&mvm.Auth{Mode: mvm.AuthProxy, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")}}, 0},
	} {
		sent := guestproto.Request{Configure: &guestproto.Configure{Role: mvm.RoleGateway, Routes: table(c.auth), RouteKeys: map[string][]byte{"key": []byte("k")}}}
		b, err := guestproto.Encode(sent)
		if err != nil {
			t.Fatal(err)
		}
		var got guestproto.Request
		if err := guestproto.Decode(b, &got); err != nil || !cmp.Equal(got, sent, equal) {
			t.Errorf("%+v: %v, %s", c.auth, err, cmp.Diff(sent, got, equal))
		}
		var old struct {
			Configure struct {
				Routes struct {
					Routes []struct{ Name string }
				}
			}
		}
		if err := json.Unmarshal(b, &old); err != nil || len(old.Configure.Routes.Routes) != c.old {
			t.Errorf("%+v: an old gateway gets %+v, %v; want %d routes", c.auth, old, err, c.old)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, m := range map[string]any{
		"no variant":     guestproto.Request{},
		"two variants":   guestproto.Request{Ping: true, Wake: true},
		"empty exec":     guestproto.ExecFrame{},
		"two exec":       guestproto.ExecFrame{CloseStdin: true, Signal: 9},
		"above a frame":  guestproto.Response{Error: &guestproto.Error{Message: strings.Repeat("x", guestproto.MaxFrame)}},
		"empty response": guestproto.HostResponse{},
	} {
		if _, err := guestproto.Encode(m); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("Encode of %s = %v, want invalid", name, err)
		}
	}
}

func TestExecFrameBounds(t *testing.T) {
	for _, c := range []struct {
		name string
		f    guestproto.ExecFrame
		ok   bool
	}{
		{"largest data", guestproto.ExecFrame{Stdin: make([]byte, guestproto.MaxExecData)}, true},
		{"largest output", guestproto.ExecFrame{Stdout: make([]byte, guestproto.MaxExecData)}, true},
		{"largest errors", guestproto.ExecFrame{Stderr: make([]byte, guestproto.MaxExecData)}, true},
		{"too much input", guestproto.ExecFrame{Stdin: make([]byte, guestproto.MaxExecData+1)}, false},
		{"too much output", guestproto.ExecFrame{Stdout: make([]byte, guestproto.MaxExecData+1)}, false},
		{"too many errors", guestproto.ExecFrame{Stderr: make([]byte, guestproto.MaxExecData+1)}, false},
		{"exit 0", guestproto.ExecFrame{Exit: &guestproto.Exit{}}, true},
	} {
		b, err := guestproto.Encode(c.f)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := guestproto.Decode(b, new(guestproto.ExecFrame)); (err == nil) != c.ok {
			t.Errorf("%s: Decode = %v, want ok %v", c.name, err, c.ok)
		}
	}
	for _, in := range []string{`{}`, `null`, `{"signal":9,"exit":{}}`, `{"signal":1,"signal":2}`} {
		if err := guestproto.Decode([]byte(in), new(guestproto.ExecFrame)); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("Decode %s = %v, want invalid", in, err)
		}
	}
}

func seeds(f *testing.F, more ...string) {
	for _, s := range append(more, ``, `{}`, `null`, `"Nope"`, `{"a":1,"a":2}`, strings.Repeat("[", 40)) {
		f.Add([]byte(s))
	}
}

// fuzzMessage checks that whatever decodes encodes again to something that decodes
// to the same.
func fuzzMessage[T any](t *testing.T, in []byte) {
	var m, again T
	if u, ok := any(&m).(json.Unmarshaler); ok {
		_ = u.UnmarshalJSON(in) // also bytes that are no JSON
	}
	if err := guestproto.Decode(in, &m); err != nil {
		return
	}
	if guestproto.Variant(m) == "" {
		t.Fatalf("%q decodes to no variant", in)
	}
	if keyTwice(in) {
		t.Fatalf("%q has a key twice", in)
	}
	b, err := guestproto.Encode(m)
	if err != nil {
		if len(in) < guestproto.MaxFrame/8 {
			t.Fatalf("%q decodes and does not encode: %v", in, err)
		}
		return
	}
	if err := guestproto.Decode(b, &again); err != nil {
		t.Fatalf("%q encodes to %q: %v", in, b, err)
	}
}

// keyTwice walks the tokens of JSON that is well-formed.
func keyTwice(in []byte) bool {
	d := json.NewDecoder(bytes.NewReader(in))
	type scope struct {
		keys  map[string]bool
		value bool
	}
	var open []*scope
	for {
		tok, err := d.Token()
		if err != nil {
			return false
		}
		if len(open) > 0 && open[len(open)-1].keys != nil {
			top := open[len(open)-1]
			if key, ok := tok.(string); ok && !top.value {
				if top.keys[key] {
					return true
				}
				top.keys[key], top.value = true, true
				continue
			}
			top.value = false
		}
		switch tok {
		case json.Delim('{'):
			open = append(open, &scope{keys: map[string]bool{}})
		case json.Delim('['):
			open = append(open, &scope{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
	}
}

func FuzzRequest(f *testing.F) {
	seeds(f, `"Ping"`, `{"SleepPrep":{"drain_timeout_secs":30}}`, `{"Configure":{"net":{"address":"10.0.0.1/8"}}}`,
		`{"Exec":{"argv":["a"]}}`, `{"Fence":{"instance_id":"i-1","ip":""}}`, `"Settle"`,
		`{"Suspend":{"drain_timeout_secs":30}}`)
	f.Fuzz(fuzzMessage[guestproto.Request])
}

func FuzzResponse(f *testing.F) {
	seeds(f, `"Pong"`, `{"Status":{"services":[]}}`, `{"IntegrationStatusReport":{"integrations":[{"status":{"error":"x"}}]}}`)
	f.Fuzz(fuzzMessage[guestproto.Response])
}

func FuzzHostRequest(f *testing.F) {
	seeds(f, `{"WakeInstance":{"tenant_id":"alice","pool_id":"w","instance_id":"i-1"}}`, `{"Acquire":{"ip":"10.0.0.1"}}`,
		`{"ReportActivity":{"instances":[{"connections":1}]}}`)
	f.Fuzz(fuzzMessage[guestproto.HostRequest])
}

func FuzzExecFrame(f *testing.F) {
	seeds(f, `{"stdin":"AAAA"}`, `{"resize":{"rows":1}}`, `{"exit":{"code":1}}`)
	f.Fuzz(fuzzMessage[guestproto.ExecFrame])
}
