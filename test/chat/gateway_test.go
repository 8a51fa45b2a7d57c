package chat_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"

	"mvm"
	"mvm/internal/guest"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guest/chat/telegram"
	"mvm/internal/guest/gateway"
	"mvm/internal/guest/linux"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// beGateway is a gateway's guest, put together as in cmd/mvm-guest.
func beGateway() error {
	dir := os.Getenv(dirEnv)
	unixAt := func(name string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, name))
		}
	}
	home, err := os.MkdirTemp(dir, "gateway")
	if err != nil {
		return err
	}
	host := guest.Dialer(unixAt("host"))
	procs := workload.NewProcesses(false)
	o := guest.Options{Processes: procs, Host: host, System: memoryless{machine{System: &linux.System{}, boot: home}},
		Paths: guest.Paths{Services: home + "/services", Secrets: home + "/secrets", Config: home + "/config", Run: home + "/run", Data: home + "/data", Etc: "/etc"}}
	log := guest.NewLog(workload.NewJournal(), os.Stderr)
	var changed atomic.Pointer[func()]
	r := &router{Router: gateway.New(gateway.Options{Log: log.Logger, Host: gateway.HostOver(host),
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixAt("in")(ctx) }})}
	r.chats = chat.NewSet(chat.Options{Log: log.Logger, Workers: workers{r.Router, host, os.Getenv(breakEnv)}, Host: host,
		Open: map[mvm.ChannelKind]func(chat.AdapterOptions) chat.Adapter{mvm.ChannelTelegram: openTelegram(dir, log.Logger)},
		Listen: func(context.Context, string, string) (net.Listener, error) {
			return listenDoor(filepath.Join(dir, "door"))
		},
		Changed: func() {
			if tell := changed.Load(); tell != nil {
				(*tell)()
			}
		}})
	o.Router, o.Channels = r, r.chats.Status
	return serveGuest(filepath.Join(dir, "gateway"), o)
}

// openTelegram opens bots, with a data disk that outlives the gateway.
func openTelegram(dir string, log *slog.Logger) func(chat.AdapterOptions) chat.Adapter {
	shelf := &hook.Shelf{Path: filepath.Join(dir, "gateway-disk", "inbox.db"), Ready: func() error { return nil }, Log: log}
	return func(opt chat.AdapterOptions) chat.Adapter {
		if os.Getenv(breakEnv) != "disk" {
			opt.Disk = shelf.Disk(opt)
		}
		return telegram.Open(opt)
	}
}

// memoryless is a machine whose secrets may be in the test's folder.
type memoryless struct{ machine }

func (memoryless) HoldsSecrets(string) error { return nil }

// router is the gateway role: routes and channels.
type router struct {
	*gateway.Router
	chats *chat.Set
}

func (r *router) Configure(c guestproto.Configure) error {
	return errors.Join(r.Router.Configure(c), r.chats.Configure(c))
}
func (r *router) Active() int  { return r.Router.Active() + r.chats.Waiting() }
func (r *router) Close() error { return errors.Join(r.chats.Close(), r.Router.Close()) }

// workers are the instances, as in cmd/mvm-guest, but for what is left out on purpose.
type workers struct {
	router *gateway.Router
	host   guest.Host
	broken string
}

func (w workers) Reach(ctx context.Context, channel, pool, key string) (chat.Lease, error) {
	return w.router.Reach(ctx, channel, pool, key)
}

func (w workers) Preflight(ctx context.Context, pool, instance string) (guestproto.PreflightAck, error) {
	resp, err := w.host.Call(ctx, guestproto.HostRequest{Preflight: &guestproto.InstanceName{PoolID: pool, InstanceID: instance}})
	if err != nil || resp.PreflightAck == nil {
		return guestproto.PreflightAck{}, errors.Join(err, errors.New("no answer to preflight"))
	}
	return *resp.PreflightAck, nil
}

func (w workers) State(ctx context.Context, pool, instance string) (mvm.State, int, error) {
	resp, err := w.host.Call(ctx, guestproto.HostRequest{QueryInstanceStatus: &guestproto.InstanceName{PoolID: pool, InstanceID: instance}})
	if err != nil || resp.InstanceStatus == nil {
		return "", 0, errors.Join(err, errors.New("no answer to how the worker is"))
	}
	return resp.InstanceStatus.Status, resp.InstanceStatus.Boot, nil
}

func (w workers) Sync(ctx context.Context, pool, instance string, boot int) error {
	if w.broken == "sync" {
		return nil
	}
	resp, err := w.host.Call(ctx, guestproto.HostRequest{SyncInstance: &guestproto.SyncInstance{Boot: boot,
		InstanceName: guestproto.InstanceName{PoolID: pool, InstanceID: instance}}})
	if err != nil || resp.SyncAck == nil || !resp.SyncAck.Success {
		return errors.Join(err, errors.New("the worker was not synced"))
	}
	return nil
}

// listenDoor listens on a socket whose clients have the address of a worker.
func listenDoor(path string) (net.Listener, error) {
	l, err := listenUnix(path)
	return doorListener{l}, err
}

type doorListener struct{ net.Listener }

func (l doorListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return doorConn{c}, err
}

type doorConn struct{ net.Conn }

func (doorConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 240, 9, 3), Port: 40000} }
