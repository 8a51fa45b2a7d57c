package guestproto_test

import (
	"strings"
	"testing"

	"mvm/internal/guestproto"
)

func TestRequestIDsGoThereAndBack(t *testing.T) {
	prep := &guestproto.SleepPrep{DrainTimeoutSecs: 3}
	for name, c := range map[string]struct {
		req  guestproto.Request
		want string
	}{
		"Configure":            {guestproto.Request{Configure: &guestproto.Configure{}}, "r-1"},
		"SleepPrep":            {guestproto.Request{SleepPrep: prep}, "r-1"},
		"Exec":                 {guestproto.Request{Exec: &guestproto.Exec{Argv: []string{"a"}}}, "r-1"},
		"Shutdown":             {guestproto.Request{Shutdown: &guestproto.Shutdown{}}, "r-1"},
		"Suspend":              {guestproto.Request{Suspend: &guestproto.Suspend{}}, "r-1"},
		"Checkpoint":           {guestproto.Request{CheckpointIntegrations: &guestproto.CheckpointIntegrations{}}, "r-1"},
		"a variant without it": {guestproto.Request{AdjustClock: &guestproto.AdjustClock{}}, ""},
		"one without fields":   {guestproto.Request{Ping: true}, ""},
	} {
		b, err := guestproto.Encode(c.req.WithID("r-1"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got guestproto.Request
		if err := guestproto.Decode(b, &got); err != nil || got.ID() != c.want {
			t.Errorf("%s: got id %q, %v, want %q", name, got.ID(), err, c.want)
		}
	}
	if prep.RequestID != "" {
		t.Error("the caller's own fields were changed")
	}
	if b, err := guestproto.Encode(guestproto.Request{SleepPrep: prep}); err != nil || string(b) != `{"SleepPrep":{"drain_timeout_secs":3}}` {
		t.Errorf("without an id the shape is %s, %v", b, err)
	}
	for id, want := range map[string]string{"r-1.x_Y": "r-1.x_Y", "a b": "", "x\n": "", strings.Repeat("a", 65): "", "ä": "", "": ""} {
		if got := (guestproto.HostRequest{Acquire: &guestproto.Acquire{RequestID: id}}).ID(); got != want {
			t.Errorf("a guest's id %q became %q, want %q", id, got, want)
		}
	}
}
