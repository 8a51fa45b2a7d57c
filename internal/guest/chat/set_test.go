package chat_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// adapter is one that answers with its channel's name and token.
type adapter struct {
	opt    chat.AdapterOptions
	closed bool
}

func (a *adapter) Status() guestproto.ChannelStatus {
	return guestproto.ChannelStatus{Name: a.opt.Channel.Name, State: chat.StateReady}
}

func (a *adapter) Webhook() (string, http.Handler) {
	if a.opt.Channel.Polls() {
		return "", nil
	}
	return "/hook", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		waitFor(r)
		fmt.Fprintf(w, "hook of %s", a.opt.Channel.Name)
	})
}

func (a *adapter) Proxy(w http.ResponseWriter, r *http.Request) bool {
	ok := strings.HasPrefix(r.URL.Path, "/"+a.opt.Channel.Name)
	if ok {
		waitFor(r)
		fmt.Fprintf(w, "%s has %s", a.opt.Channel.Name, a.opt.Channel.Token)
	}
	return ok
}

// waitFor has a request that asks for it stay unanswered until its client is gone.
func waitFor(r *http.Request) {
	if r.URL.RawQuery == "wait" {
		<-r.Context().Done()
	}
}

func (a *adapter) Close() { a.closed = true }

// host takes reports.
type host struct {
	mu   sync.Mutex
	told []guestproto.ReportMessages
}

func (h *host) Call(_ context.Context, r guestproto.HostRequest) (guestproto.HostResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, *r.ReportMessages)
	return guestproto.HostResponse{MessagesAck: true}, nil
}

// place is a Set whose ports are on loopback, whatever their number.
type place struct {
	*chat.Set
	t      *testing.T
	host   *host
	opened []*adapter

	mu    sync.Mutex
	ports map[string]net.Listener // by the address that was asked for
}

func newPlace(t *testing.T) *place {
	p := &place{t: t, host: &host{}, ports: map[string]net.Listener{}}
	p.Set = chat.NewSet(chat.Options{Log: slog.New(slog.DiscardHandler), Host: p.host,
		Open: map[mvm.ChannelKind]func(chat.AdapterOptions) chat.Adapter{mvm.ChannelTelegram: func(o chat.AdapterOptions) chat.Adapter {
			a := &adapter{opt: o}
			p.opened = append(p.opened, a)
			return a
		}},
		Listen: func(ctx context.Context, network, addr string) (net.Listener, error) {
			l, err := (&net.ListenConfig{}).Listen(ctx, network, "127.0.0.1:0")
			p.mu.Lock()
			defer p.mu.Unlock()
			p.ports[addr] = l
			return l, err
		}})
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// get gets a path from a port, by the number that the channel has, and sends first what
// comes before a request.
func (p *place) get(port int, path, first string) string {
	p.t.Helper()
	return p.getFrom("127.0.0.1", port, path, first)
}

// dial connects to a port from the address; nil: nothing listens.
func (p *place) dial(from string, port int) net.Conn {
	p.mu.Lock()
	l := p.ports[fmt.Sprintf("127.0.0.2:%d", port)]
	p.mu.Unlock()
	if l == nil {
		return nil
	}
	c, err := (&net.Dialer{Timeout: time.Minute, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", l.Addr().String())
	if err != nil {
		return nil
	}
	return c
}

func (p *place) getFrom(from string, port int, path, first string) string {
	p.t.Helper()
	c := p.dial(from, port)
	if c == nil {
		return "closed"
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, first+"GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		p.t.Fatal(err)
	}
	b, _ := io.ReadAll(c)
	_, body, _ := strings.Cut(string(b), "\r\n\r\n")
	return body
}

func configure(gateway string, channels ...guestproto.Channel) guestproto.Configure {
	return guestproto.Configure{Channels: channels, Net: &guestproto.Net{Address: netip.MustParsePrefix("127.0.0.2/8"), Gateway: netip.MustParseAddr(gateway)}}
}

func channelOf(name, token string) guestproto.Channel {
	return guestproto.Channel{Token: []byte(token), Key: []byte("k"), Channel: mvm.Channel{Name: name, Kind: mvm.ChannelTelegram, Secret: name, Allow: []string{"7"},
		To: mvm.ChannelTarget{PoolID: "workers", TargetPort: 80, Path: "/"}}}
}

// TestChangesOfChannels: what is new is opened, what changed is opened anew, what is gone is
// closed, and the rest is left alone.
func TestChangesOfChannels(t *testing.T) {
	p := newPlace(t)
	must := func(channels ...guestproto.Channel) {
		t.Helper()
		if err := p.Configure(configure("127.0.0.9", channels...)); err != nil {
			t.Fatal(err)
		}
	}
	must(channelOf("one", "a"), channelOf("two", "b"))
	must(channelOf("one", "a"), channelOf("two", "rotated"))
	if len(p.opened) != 3 || p.opened[2].opt.Channel.Name != "two" {
		t.Fatalf("%d were opened", len(p.opened))
	}
	for got, want := range map[string]string{p.get(8081, "/one", ""): "one has a", p.get(8081, "/two", ""): "two has rotated"} {
		if got != want {
			t.Errorf("the proxy answers %q, want %q", got, want)
		}
	}
	if got := p.get(8081, "/three", ""); !strings.Contains(got, `"error_code":401`) {
		t.Errorf("of another channel: %q", got)
	}
	must(channelOf("one", "a"))
	if st := p.Status(); len(st) != 1 || st[0].Name != "one" {
		t.Errorf("status %+v", st)
	}
	must()
	if got := p.get(8081, "/one", ""); got != "closed" {
		t.Errorf("a port without channels: %q", got)
	}
	for _, a := range p.opened {
		if !a.closed {
			t.Errorf("channel %s %s is open", a.opt.Channel.Name, a.opt.Channel.Token)
		}
	}
	if err := p.Configure(configure("127.0.0.9", guestproto.Channel{})); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("an invalid channel: %v", err)
	}
}

// TestHostReachesNoProxy: clients of published ports come from the host's address; they don't
// get to the platform in a worker's name. Their webhooks begin with a PROXY header.
func TestHostReachesNoProxy(t *testing.T) {
	p := newPlace(t)
	hook := channelOf("one", "a")
	hook.Mode, hook.Port, hook.URL = mvm.ChannelWebhook, 8443, "https://bots.example.org/hook"
	if err := p.Configure(configure("127.0.0.1", hook)); err != nil { // the test is the host
		t.Fatal(err)
	}
	if got := p.get(8081, "/one", ""); !strings.Contains(got, "for the tenant's instances") {
		t.Errorf("the proxy answers the host %q", got)
	}
	header := guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort("192.0.2.7:99"), netip.MustParseAddrPort("192.0.2.8:443"))
	if got := p.get(8443, "/hook", string(header)); got != "hook of one" {
		t.Errorf("with the header: %q", got)
	}
	if got := p.get(8443, "/hook", ""); got == "hook of one" {
		t.Errorf("without the header: %q", got)
	}
	if got := p.get(8443, "/other", string(header)); !strings.Contains(got, "not found") {
		t.Errorf("another path: %q", got)
	}
}

// TestOneSourceLeavesRoom: an instance, or a client that the host lets in, keeps nobody else
// out, however many connections it makes.
func TestOneSourceLeavesRoom(t *testing.T) {
	p := newPlace(t)
	hook := channelOf("one", "a")
	hook.Mode, hook.Port, hook.URL = mvm.ChannelWebhook, 8443, "https://bots.example.org/hook"
	if err := p.Configure(configure("127.0.0.9", hook)); err != nil {
		t.Fatal(err)
	}
	fill := func(from string, port int, path, first string) {
		for range 300 {
			c := p.dial(from, port)
			if c == nil {
				t.Fatal("no connection")
			}
			t.Cleanup(func() { _ = c.Close() })
			_, _ = io.WriteString(c, first+"GET "+path+"?wait HTTP/1.1\r\nHost: x\r\n\r\n") // it may be closed already
		}
	}
	client := func(ip string) string {
		return string(guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort(ip+":99"), netip.MustParseAddrPort("192.0.2.8:443")))
	}
	fill("127.0.0.5", 8081, "/one", "")
	if got := p.getFrom("127.0.0.6", 8081, "/one", ""); got != "one has a" {
		t.Errorf("another instance is answered %q", got)
	}
	fill("127.0.0.5", 8443, "/hook", "")
	if got := p.getFrom("127.0.0.9", 8443, "/hook", client("192.0.2.7")); got != "hook of one" {
		t.Errorf("with an instance at the door, a platform is answered %q", got)
	}
	fill("127.0.0.9", 8443, "/hook", client("192.0.2.66"))
	if got := p.getFrom("127.0.0.9", 8443, "/hook", client("192.0.2.7")); got != "hook of one" {
		t.Errorf("with a client at the door, another is answered %q", got)
	}
}

// TestReports: what became of messages is told in parts of a bounded size, and a flood is
// counted.
func TestReports(t *testing.T) {
	p := newPlace(t)
	if err := p.Configure(configure("127.0.0.9", channelOf("one", "a"))); err != nil {
		t.Fatal(err)
	}
	for n := range 1000 {
		p.opened[0].opt.Recorder.Record("one", guestproto.MessageEvent{What: guestproto.MessageRefused, ID: int64(n)})
	}
	total := 0
	for deadline := time.Now().Add(20 * time.Second); total < 1000 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		total = 0
		p.host.mu.Lock()
		for _, r := range p.host.told {
			if len(r.Messages) > guestproto.MaxMessages || r.Channel != "one" {
				t.Fatalf("a report of %d messages of %s", len(r.Messages), r.Channel)
			}
			for _, m := range r.Messages {
				total += max(m.Count, 1)
			}
		}
		p.host.mu.Unlock()
	}
	told := 0
	p.host.mu.Lock()
	for _, r := range p.host.told {
		told += len(r.Messages)
	}
	p.host.mu.Unlock()
	if total != 1000 || told >= 1000 {
		t.Errorf("%d of 1000 messages were told, each of %d by itself", total, told)
	}
}
