package inbox_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guest/chat/inbox"
	"mvm/internal/testenv/durable"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" {
		os.Exit(writeUntilKilled(path))
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, path string, lim inbox.Limits) *inbox.Inbox {
	t.Helper()
	b, err := inbox.Open(path, inbox.Options{Log: slog.New(slog.DiscardHandler), Limits: lim})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func message(chat, id string) inbox.Message {
	return inbox.Message{Channel: "hook", ID: id, Chat: chat, Sender: "u" + chat, Type: "application/json", Body: []byte(`{"text":"` + id + `"}`)}
}

func put(t testing.TB, b *inbox.Inbox, messages ...inbox.Message) []inbox.Verdict {
	t.Helper()
	v, err := b.Put(messages...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func idsOf(entries []inbox.Entry) (out []string) {
	for _, e := range entries {
		out = append(out, e.ID)
	}
	return out
}

// TestKeptUntilDone: what was put is there after the file was opened again, in order, until
// it is delivered; a repeat is told before and after that.
func TestKeptUntilDone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mvm", "inbox.db")
	b := open(t, path, inbox.Limits{})
	put(t, b, message("1", "a"), message("2", "b"))
	put(t, b, message("1", "c"))
	if got := put(t, b, message("1", "a"), message("1", "d"), message("1", "d")); !slices.Equal(got, []inbox.Verdict{inbox.Repeat, inbox.Kept, inbox.Repeat}) {
		t.Errorf("repeats: %v", got)
	}
	other := message("1", "a")
	other.Channel = "another"
	if got := put(t, b, other); got[0] != inbox.Kept {
		t.Errorf("the same id in another channel: %v", got)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(message("1", "e")); err == nil {
		t.Error("a closed inbox keeps a message")
	}
	b = open(t, path, inbox.Limits{})
	got := b.Entries("hook")
	if !slices.Equal(idsOf(got), []string{"a", "b", "c", "d"}) || got[0].Chat != "1" || got[0].Sender != "u1" || got[0].Type != "application/json" {
		t.Fatalf("after opening again: %+v", got)
	}
	if body, err := b.Body(got[1].Number); err != nil || string(body) != `{"text":"b"}` {
		t.Errorf("body: %q, %v", body, err)
	}
	if err := b.Done(got[0].Number); err != nil {
		t.Fatal(err)
	}
	if err := b.Done(got[0].Number); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("done twice: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, path, inbox.Limits{})
	if got := idsOf(b.Entries("hook")); !slices.Equal(got, []string{"b", "c", "d"}) {
		t.Errorf("after one was delivered: %v", got)
	}
	if got := put(t, b, message("1", "a")); got[0] != inbox.Repeat {
		t.Errorf("a repeat of what was delivered: %v", got)
	}
	last := put(t, b, message("1", "z"))
	if n := b.Entries("hook"); last[0] != inbox.Kept || n[len(n)-1].Number <= got[3].Number {
		t.Errorf("a number was used again: %+v", n)
	}
}

func TestBounds(t *testing.T) {
	lim := inbox.Limits{Body: 100, ID: 20, Messages: 5, Chat: 3, Bytes: 400, ChatBytes: 150}
	b := open(t, filepath.Join(t.TempDir(), "inbox.db"), lim)
	large := message("1", "large")
	large.Body = make([]byte, 101)
	long := message("1", strings.Repeat("x", 21))
	for _, m := range []inbox.Message{large, long, {Channel: "hook"}, {ID: "x"}} {
		if _, err := b.Put(message("1", "beside"), m); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	got := put(t, b, message("1", "a"), message("1", "b"), message("1", "c"), message("1", "d"), message("2", "e"))
	if want := []inbox.Verdict{inbox.Kept, inbox.Kept, inbox.Kept, inbox.ChatFull, inbox.Kept}; !slices.Equal(got, want) {
		t.Errorf("more than a chat may have: %v", got)
	}
	if got := put(t, b, message("1", "d")); got[0] != inbox.ChatFull {
		t.Errorf("one more of a full chat: %v", got)
	}
	sized := func(chat, id string, n int) inbox.Message {
		m := message(chat, id)
		m.Body = make([]byte, n)
		return m
	}
	if got := put(t, b, sized("3", "f", 80), sized("3", "g", 80)); !slices.Equal(got, []inbox.Verdict{inbox.Kept, inbox.ChatFull}) {
		t.Errorf("more bytes than a chat may have: %v", got)
	}
	if _, err := b.Put(message("4", "h")); !mvm.IsKind(err, mvm.KindQuota) {
		t.Errorf("a full inbox: %v", err)
	}
	if got := put(t, b, message("1", "a")); got[0] != inbox.Repeat {
		t.Errorf("a repeat at a full inbox: %v", got)
	}
	first := b.Entries("")[0].Number
	if err := b.Done(first); err != nil {
		t.Fatal(err)
	}
	put(t, b, message("1", "h"))
	if w, a := b.Count(); w != 5 || a != 0 {
		t.Errorf("%d wait, %d are set aside", w, a)
	}
}

// TestSetAside: what is set aside is kept, bounded, apart from what waits, and waits again
// when it is told to.
func TestSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	b := open(t, path, inbox.Limits{Messages: 4, Aside: 2})
	put(t, b, message("1", "a"), message("1", "b"), message("1", "c"), message("1", "d"))
	all := b.Entries("")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(b.Failed(all[0].Number, 2, 3, strings.Repeat("x", 1000)))
	for _, e := range all[:3] {
		do(b.SetAside(e.Number, "refused"))
		time.Sleep(time.Millisecond)
	}
	put(t, b, message("1", "e"), message("1", "f"), message("1", "g"))
	do(b.Close())
	b = open(t, path, inbox.Limits{Messages: 4, Aside: 2})
	if got := idsOf(b.Entries("")); !slices.Equal(got, []string{"b", "c", "d", "e", "f", "g"}) {
		t.Fatalf("kept: %v", got)
	}
	if w, a := b.Count(); w != 4 || a != 2 {
		t.Errorf("%d wait, %d are set aside", w, a)
	}
	if err := b.Retry(all[1].Number); !mvm.IsKind(err, mvm.KindQuota) {
		t.Errorf("retry into a full inbox: %v", err)
	}
	do(b.Drop(all[3].Number))
	do(b.Retry(all[1].Number))
	if e, err := b.Entry(all[1].Number); err != nil || e.Aside || e.Refusals != 0 {
		t.Errorf("after a retry: %+v, %v", e, err)
	}
	if got := put(t, b, message("1", "a")); got[0] != inbox.Repeat {
		t.Errorf("a repeat of what was given up: %v", got)
	}
	if _, err := b.Body(all[0].Number); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("body of what was given up: %v", err)
	}
}

// TestIDsAreForgotten: ids of what was delivered are known for a time and a number only.
func TestIDsAreForgotten(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b, err := inbox.Open(filepath.Join(t.TempDir(), "inbox.db"), inbox.Options{Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return now }, Limits: inbox.Limits{Known: 2, Remember: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	verdict := func(id string, want inbox.Verdict) {
		t.Helper()
		if got := put(t, b, message("1", id)); got[0] != want {
			t.Errorf("%s: %v, want %v", id, got, want)
		}
	}
	for _, id := range []string{"a", "b", "c"} {
		verdict(id, inbox.Kept)
		if err := b.Done(b.Entries("")[0].Number); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	verdict("c", inbox.Repeat)
	verdict("b", inbox.Repeat)
	verdict("a", inbox.Kept)
	e := b.Entries("")[0]
	now = now.Add(2 * time.Hour)
	verdict("x", inbox.Kept)
	verdict("b", inbox.Kept)
	if b.Old(e) {
		t.Error("a message of two hours is too old")
	}
	if now = now.Add(b.Age()); !b.Old(e) {
		t.Error("a message may wait for ever")
	}
}

// TestPutIsDurable: what Put and the others change is synced when they return, and so is the
// file's name; calls at the same time share syncs.
func TestPutIsDurable(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "mvm", "inbox.db")
	var b *inbox.Inbox
	var err error
	watch := durable.Self(t, root, nil, func() {
		b, err = inbox.Open(path, inbox.Options{Log: slog.New(slog.DiscardHandler)})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if watch.Changes(t) == 0 {
		t.Fatal("nothing was seen")
	}
	durable.Self(t, root, nil, func() { put(t, b, message("1", "a"), message("1", "b")) })
	n := b.Entries("")[0].Number
	for _, change := range []func() error{
		func() error { return b.Failed(n, 1, 0, "x") }, func() error { return b.SetAside(n, "x") }, func() error { return b.Retry(n) }, func() error { return b.Done(n) },
	} {
		durable.Self(t, root, nil, func() { err = change() })
		if err != nil {
			t.Fatal(err)
		}
	}
	idle := durable.Self(t, root, nil, func() {
		b.Entries("")
		b.Count()
		put(t, b, message("1", "a"), message("1", "b")) // repeats
		_, err = b.Body(n + 1)
	})
	if err != nil || idle.Changes(t) != 0 {
		t.Errorf("reading, or what came again, changed something: %d, %v", idle.Changes(t), err)
	}
	const many = 64
	busy := durable.Self(t, root, nil, func() {
		var g sync.WaitGroup
		for i := range many {
			g.Go(func() { put(t, b, message(fmt.Sprint(i%8), fmt.Sprint("m", i))) })
		}
		g.Wait()
	})
	if got := busy.Syncs(t, path); got >= 2*many {
		t.Errorf("%d messages at once took %d syncs", many, got)
	} else {
		t.Logf("%d messages at once took %d syncs", many, got)
	}
}
