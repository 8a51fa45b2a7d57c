package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"mvm/internal/guest/gateway"
	"mvm/internal/guestproto"
)

// fetch gets the URL and returns how long it took.
func fetch(b *testing.B, c *http.Client, url string) time.Duration {
	began := time.Now()
	res, err := c.Get(url)
	if err != nil {
		b.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return time.Since(began)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkAwake compares requests through the router with requests straight to
// the instance, in turns in one run.
func BenchmarkAwake(b *testing.B) {
	l := newLab(b, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	s := l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	c := &http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	var direct, routed []time.Duration
	for b.Loop() {
		direct = append(direct, fetch(b, c, s.URL))
		routed = append(routed, fetch(b, c, "http://"+l.at(80)))
	}
	d, r := median(direct), median(routed)
	b.ReportMetric(float64(d.Nanoseconds()), "direct-ns")
	b.ReportMetric(float64(r.Nanoseconds()), "routed-ns")
	b.ReportMetric(float64(r)/float64(d), "ratio")
}

// BenchmarkWoken measures what the router adds to a wake that takes no time: a new
// client connection, the question, a new connection to the instance, the answer;
// against a new connection straight to the instance.
func BenchmarkWoken(b *testing.B) {
	l := newLab(b, gateway.Limits{}, webRoute("web", 80, "/", anyOne))
	s := l.instance(ip3, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	c := client()
	var direct, woken []time.Duration
	for b.Loop() {
		direct = append(direct, fetch(b, c, s.URL))
		l.router.Fence(guestproto.Fence{InstanceID: id3, IP: ip3})
		woken = append(woken, fetch(b, c, "http://"+l.at(80)))
	}
	d, w := median(direct), median(woken)
	b.ReportMetric(float64(d.Nanoseconds()), "direct-ns")
	b.ReportMetric(float64(w.Nanoseconds()), "woken-ns")
	b.ReportMetric(float64(w)/float64(d), "ratio")
}
