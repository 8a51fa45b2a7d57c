package chat_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// lightWorker takes every message at once.
func lightWorker(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
	w.Header().Set("X-Openclaw-Delivery-Accepted", "durable")
}

// answerLight answers for a host whose workers are all awake, idle and synced.
func answerLight(req guestproto.HostRequest) guestproto.HostResponse {
	switch {
	case req.Acquire != nil:
		var n int
		_, _ = fmt.Sscan(req.Acquire.Key, &n)
		ip := netip.AddrFrom4([4]byte{10, 240, byte(n >> 8), byte(n)})
		return guestproto.HostResponse{AcquireResult: &guestproto.AcquireResult{Success: true, Instances: []guestproto.Awake{{InstanceID: fmt.Sprintf("i-%08x", n), IP: ip, Boot: 1}}}}
	case req.Preflight != nil:
		return guestproto.HostResponse{PreflightAck: &guestproto.PreflightAck{Safe: true}}
	case req.QueryInstanceStatus != nil:
		return guestproto.HostResponse{InstanceStatus: &guestproto.InstanceStatus{Status: mvm.StateRunning, Boot: 1}}
	case req.SyncInstance != nil:
		return guestproto.HostResponse{SyncAck: &guestproto.Ack{Success: true}}
	case req.ReportMessages != nil:
		return guestproto.HostResponse{MessagesAck: true}
	case req.ReportActivity != nil:
		return guestproto.HostResponse{ActivityAck: true}
	}
	return guestproto.HostResponse{HealthAck: true}
}

// newLight starts a gateway whose bot has the chats, each with a light worker of its own.
func newLight(t testing.TB, chats int) *host {
	h := newTelegram(t)
	h.from, h.light = "chat", http.HandlerFunc(lightWorker)
	for n := range chats {
		h.allow = append(h.allow, fmt.Sprint(1000+n))
	}
	srv := &http.Server{Handler: h.light, ReadHeaderTimeout: patience}
	h.listen("in", func(l net.Listener) { _ = srv.Serve(l) })
	t.Cleanup(func() { _ = srv.Close() })
	h.startGateway()
	return h
}

// rss is the memory of the gateway's process, in KiB.
func (h *host) rss() (kib int) {
	h.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.gateway.Process.Pid))
	must(h.t, err)
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	_, err = fmt.Sscan(rest, &kib)
	must(h.t, err)
	return kib
}

// BenchmarkGateway measures what messages cost a gateway with 1,000 chats, each of which has
// a worker of its own, beside a bare loop that asks the same Telegram and posts to the same
// workers: messages a second, CPU time of a message, and the gateway's memory.
func BenchmarkGateway(b *testing.B) {
	const chats, messages = 1000, 3000
	for b.Loop() {
		h := newLight(b, chats)
		h.until("the bot polls", func() error {
			if len(h.api.Calls("getUpdates")) == 0 {
				return errors.New("it does not")
			}
			return nil
		})
		idle := h.rss()
		write := func() {
			for n := range messages {
				id := int64(1000 + n%chats)
				h.api.Write(id, id, "hello")
			}
		}
		ticks := func(pid int) int64 {
			n, err := cpuTicks(pid)
			must(b, err)
			return n
		}
		before, began := ticks(h.gateway.Process.Pid), time.Now()
		write()
		h.until("all are confirmed", func() error {
			if n := len(h.api.Pending()); n > 0 {
				return fmt.Errorf("%d wait", n)
			}
			return nil
		})
		took, cpu := time.Since(began), ticks(h.gateway.Process.Pid)-before
		busy := h.rss()
		h.killGateway()
		began = time.Now()
		write()
		must(b, h.bareLoop(messages))
		bare := time.Since(began)
		fmt.Printf("%d messages of %d chats: gateway %.0f a second, a bare loop %.0f (%.2f of it); %.2f ms of CPU each; gateway's memory %.1f MiB idle, %.1f after\n",
			messages, chats, messages/took.Seconds(), messages/bare.Seconds(), bare.Seconds()/took.Seconds(), float64(cpu)*10/messages, float64(idle)/1024, float64(busy)/1024)
		b.ReportMetric(messages/took.Seconds(), "messages/s")
		b.ReportMetric(messages/bare.Seconds(), "bare-messages/s")
		b.ReportMetric(bare.Seconds()/took.Seconds(), "ratio")
		b.ReportMetric(float64(cpu)*10/messages, "cpu-ms/message")
		b.ReportMetric(float64(idle)/1024, "idle-MiB")
		b.ReportMetric(float64(busy)/1024, "MiB")
	}
}

// bareLoop asks Telegram for updates and posts each to its worker, as many at once as an
// answer has, until it has n.
func (h *host) bareLoop(n int) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	workers := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: h.dialContext("in")}}
	for offset := int64(0); n > 0; {
		list, err := updates(client, h.web.URL, offset)
		if err != nil {
			return err
		}
		var group sync.WaitGroup
		errs := make([]error, len(list))
		for i, u := range list {
			group.Go(func() { errs[i] = post(workers, u.raw) })
			offset = max(offset, u.id+1)
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		n -= len(list)
	}
	return nil
}

// measures are times by what was measured.
type measures map[string][]time.Duration

func (m measures) add(what string, took time.Duration) { m[what] = append(m[what], took) }

func (m measures) median(what string) time.Duration {
	all := slices.Sorted(slices.Values(m[what]))
	if len(all) == 0 {
		return 0
	}
	return all[len(all)/2]
}
