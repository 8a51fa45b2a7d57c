package mvm_test

import (
	"encoding/json"
	"testing"

	"mvm"
)

// TestAskerText: the text of an asker is what it was before it had a kind and an id, so
// every text comes back unchanged, and JSON has it as a string.
func TestAskerText(t *testing.T) {
	for text, want := range map[string]mvm.Asker{
		"cli:root":                {Kind: mvm.AskerCLI, ID: "root"},
		"api:acme/web":            {Kind: mvm.AskerAPI, ID: "acme/web"},
		"gateway:i-0a0b0c0d":      {Kind: mvm.AskerGateway, ID: "i-0a0b0c0d"},
		"publish:127.0.0.1:8080":  {Kind: mvm.AskerPublish, ID: "127.0.0.1:8080"},
		"publish:[::1]:8080":      {Kind: mvm.AskerPublish, ID: "[::1]:8080"},
		"guest:i-0a0b0c0d":        {Kind: mvm.AskerGuest, ID: "i-0a0b0c0d"},
		"policy":                  {Kind: mvm.AskerPolicy},
		"reconcile":               {Kind: mvm.AskerReconcile},
		"agent":                   {Kind: mvm.AskerAgent},
		"unknown":                 {Kind: mvm.AskerUnknown},
		"timer:i-0a0b0c0d/letter": {Kind: "timer", ID: "i-0a0b0c0d/letter"},
		"":                        {},
		"cli:":                    {Kind: "cli:"},
		":":                       {Kind: ":"},
		":root":                   {ID: "root"},
		"a::b":                    {Kind: "a", ID: ":b"},
	} {
		got := mvm.ParseAsker(text)
		if got != want || got.String() != text {
			t.Errorf("%q is read as %#v and written as %q, want %#v", text, got, got, want)
		}
		raw, err := json.Marshal(struct{ By mvm.Asker }{got})
		var back struct{ By mvm.Asker }
		if quoted, _ := json.Marshal(text); err != nil || string(raw) != `{"By":`+string(quoted)+`}` {
			t.Errorf("%q: JSON is %s, %v", text, raw, err)
		}
		if err := json.Unmarshal(raw, &back); err != nil || back.By != got {
			t.Errorf("%q: from JSON %#v, %v", text, back.By, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"By":7}`), new(struct{ By mvm.Asker })); err == nil {
		t.Error("a number is taken for an asker")
	}
}

// FuzzAskerText: no text of the audit log changes by being read and written, or its hash
// would not fit any more.
func FuzzAskerText(f *testing.F) {
	f.Add("cli:root")
	f.Add("::")
	f.Fuzz(func(t *testing.T, text string) {
		if got := mvm.ParseAsker(text).String(); got != text {
			t.Errorf("%q became %q", text, got)
		}
	})
}

func TestAskerKinds(t *testing.T) {
	for kind, want := range map[mvm.AskerKind]struct{ person, onDemand bool }{
		mvm.AskerCLI: {person: true}, mvm.AskerAPI: {person: true},
		mvm.AskerGateway: {onDemand: true}, mvm.AskerPublish: {onDemand: true}, mvm.AskerGuest: {onDemand: true},
		"timer": {onDemand: true}, "inbox": {onDemand: true},
		mvm.AskerPolicy: {}, mvm.AskerReconcile: {}, mvm.AskerAgent: {}, mvm.AskerUnknown: {}, "": {},
	} {
		if kind.Person() != want.person || kind.OnDemand() != want.onDemand {
			t.Errorf("%q: person %v, on demand %v; want %+v", kind, kind.Person(), kind.OnDemand(), want)
		}
	}
}
