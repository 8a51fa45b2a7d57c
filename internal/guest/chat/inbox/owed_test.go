package inbox_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mvm/internal/guest/chat/inbox"
)

// TestDebts: an answer that is owed is there after the file was opened again, one for a chat,
// until it is paid; one of a later message stays, and so do those of another channel.
func TestDebts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mvm", "inbox.db")
	b := open(t, path, inbox.Limits{})
	owe := func(channel, chat string, message int64) inbox.Debt {
		t.Helper()
		d := inbox.Debt{Chat: chat, Key: "k", Instance: "i-1", Message: message, Since: time.Now()}
		if err := b.Owe(channel, d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	first, second := owe("bot", "1", 10), owe("bot", "2", 11)
	owe("other", "1", 12)
	owe("bot", "1", 13)
	if err := b.Paid("bot", first, second); err != nil {
		t.Fatal(err)
	}
	old := second
	old.Chat, old.Since = "3", time.Now().Add(-25*time.Hour)
	if err := b.Owe("bot", old); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, path, inbox.Limits{})
	for channel, want := range map[string][]int64{"bot": {13}, "other": {12}, "none": nil} {
		left, err := b.Debts(channel)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, d := range left {
			got = append(got, d.Message)
		}
		if !slices.Equal(got, want) {
			t.Errorf("channel %s owes the answers to %d, want %d", channel, got, want)
		}
	}
	if err := b.Owe("bot", inbox.Debt{Chat: fmt.Sprintf("%300d", 1)}); err == nil {
		t.Error("a chat of 300 bytes is taken")
	}
}
