package telegram_test

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"mvm/internal/guestproto"
)

// proxied is a bot, and a worker's way to it. The key of the worker is 7.
func proxied(t *testing.T, from string) (s *stage, root string) {
	s = newStage(t, func(c *guestproto.Channel) { c.To.Selector.From, c.Allow = from, []string{"7", "-100"} }).open()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.bot.Proxy(w, r) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(front.Close)
	return s, front.URL
}

func (s *stage) placeholder() string { return s.is.Placeholder("i-0000000a", "7") }

func (s *stage) post(url, kind string, body []byte) (int, string) {
	s.t.Helper()
	resp, err := s.client.Post(url, kind, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestProxyPutsTheRealTokenIn: the worker's placeholder works for methods and files, every
// other token does not, and no answer has the real one in it.
func TestProxyPutsTheRealTokenIn(t *testing.T) {
	s, root := proxied(t, "fixed:alice")
	if strings.Contains(s.placeholder(), "REALTOKEN") || !strings.HasPrefix(s.placeholder(), "111111:") {
		t.Fatalf("placeholder %q", s.placeholder())
	}
	api := root + "/bot" + s.placeholder() + "/"
	code, text := s.post(api+"sendMessage", "application/json", []byte(`{"chat_id":7,"text":"hi"}`))
	if sent := s.api.Sent(); code != 200 || len(sent) != 1 || sent[0].Text != "hi" {
		t.Errorf("send: %d %s, sent %+v", code, text, sent)
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	_ = w.WriteField("chat_id", "7")
	part, _ := w.CreateFormFile("photo", "a.jpg")
	_, _ = part.Write(bytes.Repeat([]byte("x"), 3<<20))
	_ = w.Close()
	if code, text := s.post(api+"sendPhoto", w.FormDataContentType(), form.Bytes()); code != 200 {
		t.Errorf("photo: %d %s", code, text)
	}
	id := s.api.AddFile("photos/a.jpg", []byte("a photo"))
	if code, text := s.post(api+"getFile", "application/json", []byte(`{"file_id":"`+id+`"}`)); code != 200 || !strings.Contains(text, "photos/a.jpg") {
		t.Errorf("getFile: %d %s", code, text)
	}
	resp, err := s.client.Get(root + "/file/bot" + s.placeholder() + "/photos/a.jpg")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(b) != "a photo" {
		t.Errorf("file: %s %q", resp.Status, b)
	}
	for _, path := range []string{"/bot" + token + "/getMe", "/bot111111:x/getMe", "/bot" + s.is.Placeholder("i-0000000a", "") + "x/getMe", "/", "/bot/getMe"} {
		if code, _ := s.post(root+path, "application/json", nil); code != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, code)
		}
	}
	for _, path := range []string{"file/bot" + s.placeholder() + "/../bot/getMe", "file/bot" + s.placeholder() + "/a/%2e%2e/%2e%2e/x", "bot" + s.placeholder() + "/getMe/x", "bot" + s.placeholder() + "/a.b"} {
		if code, text := s.post(root+"/"+path, "application/json", nil); code != 404 && code != 401 && code != 307 && code != 301 {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

// TestProxyAnswersItself: how updates arrive is the gateway's business, and what every worker
// asks when it starts is asked once.
func TestProxyAnswersItself(t *testing.T) {
	s, root := proxied(t, "fixed:alice")
	s.until("polling", func() bool { return len(s.api.Calls("getUpdates")) > 0 })
	api := root + "/bot" + s.placeholder() + "/"
	for _, method := range []string{"setWebhook", "deleteWebhook", "getUpdates", "getWebhookInfo", "logOut", "close"} {
		before := len(s.api.Calls(method))
		if code, text := s.post(api+method, "application/json", []byte(`{"url":"https://evil.example"}`)); code != 200 || !strings.Contains(text, `"ok":true`) {
			t.Errorf("%s: %d %s", method, code, text)
		}
		if n := len(s.api.Calls(method)); n != before && method != "getUpdates" {
			t.Errorf("%s reached Telegram", method)
		}
	}
	before := len(s.api.Calls("getMe"))
	for range 5 {
		if code, text := s.post(api+"getMe", "application/json", nil); code != 200 || !strings.Contains(text, "standin_bot") {
			t.Errorf("getMe: %d %s", code, text)
		}
		s.post(api+"setMyCommands", "application/json", []byte(`{"commands":[{"command":"new","description":"x"}]}`))
	}
	if me, set := len(s.api.Calls("getMe"))-before, len(s.api.Calls("setMyCommands")); me > 1 || set != 1 {
		t.Errorf("Telegram was asked getMe %d times and setMyCommands %d times", me, set)
	}
	s.post(api+"setMyCommands", "application/json", []byte(`{"commands":[]}`))
	if n := len(s.api.Calls("setMyCommands")); n != 2 {
		t.Errorf("another list of commands: %d calls", n)
	}
}

// TestWorkerOfOneChat: where each chat has a worker of its own, a worker can't write in, read
// or change another chat, in whatever form it asks.
func TestWorkerOfOneChat(t *testing.T) {
	s, root := proxied(t, "chat")
	api := root + "/bot" + s.placeholder() + "/"
	form := func(fields ...string) (string, []byte) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for n := 0; n < len(fields); n += 2 {
			_ = w.WriteField(fields[n], fields[n+1])
		}
		_ = w.Close()
		return w.FormDataContentType(), b.Bytes()
	}
	type request struct {
		method, kind string
		body         []byte
	}
	const jsonKind, formKind = "application/json", "application/x-www-form-urlencoded"
	ok := []request{{"sendMessage", jsonKind, []byte(`{"chat_id":7,"text":"a"}`)}, {"sendMessage", jsonKind, []byte(`{"chat_id":"7","text":"{\"chat\":8}"}`)},
		{"sendMessage", formKind, []byte("chat_id=7&text=a")}, {"getMe", jsonKind, nil}, {"sendMessage?chat_id=7&text=x", jsonKind, nil}, {"answerCallbackQuery", jsonKind, []byte(`{"callback_query_id":"5"}`)}}
	kind, b := form("chat_id", "7", "text", "a")
	ok = append(ok, request{"sendMessage", kind, b})
	bad := []request{{"sendMessage", jsonKind, []byte(`{"chat_id":8,"text":"a"}`)}, {"sendMessage", jsonKind, []byte(`{"chat_id":7,"reply_parameters":{"chat_id":8,"message_id":1}}`)},
		{"sendMessage", jsonKind, []byte(`{"chat_id":7,"reply_parameters":"{\"chat_id\":8}"}`)}, {"forwardMessage", jsonKind, []byte(`{"chat_id":7,"from_chat_id":8,"message_id":1}`)},
		{"sendMessage", jsonKind, []byte(`{"CHAT_ID":8,"chat_id":7}`)}, {"sendMessage?chat_id=8", jsonKind, []byte(`{"chat_id":7,"text":"a"}`)}, {"sendMessage", formKind, []byte("chat_id=7&chat_id=8&text=a")},
		{"sendMessage", "text/plain", []byte("chat_id=8")}, {"sendMessage", jsonKind, []byte(`{"chat_id":7}{"chat_id":8}`)}, {"setMyName", jsonKind, []byte(`{"name":"x"}`)},
		{"editMessageText", jsonKind, []byte(`{"inline_message_id":"1","text":"x"}`)}, {"sendMessage", jsonKind, []byte(`{"chat_id":{"a":1},"text":"a"}`)}}
	kind, b = form("chat_id", "7", "chat_id", "8")
	bad = append(bad, request{"sendMessage", kind, b})
	kind, b = form("chat_id", "7", "reply_parameters", `{"chat_id":8}`)
	bad = append(bad, request{"sendMessage", kind, b})
	for _, r := range ok {
		if code, text := s.post(api+r.method, r.kind, r.body); code != 200 {
			t.Errorf("%s %s: %d %s", r.method, r.body, code, text)
		}
	}
	before := len(s.api.Calls(""))
	for _, r := range bad {
		if code, text := s.post(api+r.method, r.kind, r.body); code != http.StatusForbidden {
			t.Errorf("%s %s: %d %s", r.method, r.body, code, text)
		}
	}
	if n := len(s.api.Calls("")) - before; n > 1 { // a poll may have come
		t.Errorf("%d of them reached Telegram", n)
	}
	// A worker that is nobody's yet has no chat at all.
	spare := root + "/bot" + s.is.Placeholder("i-0000000b", "") + "/"
	for method, want := range map[string]int{"getMe": 200, "sendMessage": 403, "setMyName": 403} {
		if code, text := s.post(spare+method, jsonKind, []byte(`{"chat_id":7,"text":"a"}`)[:map[bool]int{true: 0, false: 24}[method == "getMe"]]); code != want {
			t.Errorf("a spare worker's %s: %d %s", method, code, text)
		}
	}
	// Names that are given twice: what is passed on is what was looked at.
	s.post(api+"sendMessage", jsonKind, []byte(`{"chat_id":8,"text":"dup","chat_id":7}`))
	for _, m := range s.api.Sent() {
		if m.Chat != 7 {
			t.Errorf("a message went to chat %s", fmt.Sprint(m.Chat))
		}
	}
}

// TestCommandsOfAWorker: where each chat has a worker of its own, the menu that a worker sets
// is that of its chat, and no other's; what another worker has set is no reason not to set it.
func TestCommandsOfAWorker(t *testing.T) {
	s, root := proxied(t, "chat")
	s.is.Allow = []string{"7", "8"}
	of := func(key string) string { return root + "/bot" + s.is.Placeholder("i-0000000a", key) + "/" }
	const jsonKind, menu = "application/json", `{"commands":[{"command":"pay","description":"x"}]`
	scopes := func() (out []string) {
		for _, c := range append(s.api.Calls("setMyCommands"), s.api.Calls("deleteMyCommands")...) {
			out = append(out, strings.ToLower(c.Method)+" "+fmt.Sprint(c.Params["scope"]))
		}
		return out
	}
	for _, r := range []struct{ key, method, body string }{
		{"7", "setMyCommands", menu + `}`}, {"7", "setMyCommands", menu + `}`}, {"7", "setMyCommands", menu + `,"scope":{"type":"all_group_chats"}}`},
		{"8", "setMyCommands", menu + `,"scope":{"type":"default"}}`}, {"8", "setMyCommands", menu + `,"scope":{"type":"all_private_chats"}}`},
		{"7", "deleteMyCommands", `{"scope":{"type":"all_group_chats"}}`}, {"7", "deleteMyCommands", ``}, {"7", "setMyCommands", menu + `}`}, {"", "setMyCommands", menu + `}`},
	} {
		if code, text := s.post(of(r.key)+r.method, jsonKind, []byte(r.body)); code != 200 || !strings.Contains(text, `"ok":true`) {
			t.Errorf("%s %s: %d %s", r.method, r.body, code, text)
		}
	}
	const seven, eight = "map[chat_id:7 type:chat]", "map[chat_id:8 type:chat]"
	want := []string{"setmycommands " + seven, "setmycommands " + eight, "setmycommands " + seven, "deletemycommands " + seven}
	if got := scopes(); !slices.Equal(got, want) {
		t.Errorf("Telegram was asked\n%q, want\n%q", got, want)
	}
	if code, _ := s.post(of("7")+"setMyCommands", jsonKind, []byte(menu+`,"scope":{"type":"chat","chat_id":8}}`)); code != http.StatusForbidden {
		t.Errorf("the menu of another chat: %d", code)
	}
	if code, _ := s.post(of("7")+"setMyCommands?scope="+`%7B%22type%22%3A%22chat%22%2C%22chat_id%22%3A8%7D`, jsonKind, []byte(menu+`}`)); code != http.StatusForbidden {
		t.Errorf("the menu of another chat, in the address: %d", code)
	}
}

// TestListsThatReplaceEachOther: a list that was in force and was replaced is set again.
func TestListsThatReplaceEachOther(t *testing.T) {
	s, root := proxied(t, "fixed:alice")
	api := root + "/bot" + s.placeholder() + "/setMyCommands"
	for _, name := range []string{"a", "b", "a", "a"} {
		if code, text := s.post(api, "application/json", []byte(`{"commands":[{"command":"`+name+`","description":"x"}]}`)); code != 200 {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	if n := len(s.api.Calls("setMyCommands")); n != 3 {
		t.Errorf("Telegram was asked %d times, want 3", n)
	}
}
