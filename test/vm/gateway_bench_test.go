package vm_test

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guestproto"
)

// How much is asked in a round, and how many rounds there are of each kind: an even number, for
// each order of the ways there is the opposite one.
const (
	gatewayRounds  = 6
	gatewayClients = 8
	roundTime      = 3 * time.Second
	burstRounds    = 6
)

// vcpusFlag is for the gateway and the nginx that it is measured against.
var vcpusFlag = flag.Int("vcpus", 1, "vCPUs of the gateway's and nginx's VM in BenchmarkGateway")

var burstSizes = []int{100, 200, 400, 800}

// The ways to the worker.
const (
	viaNginx     = "nginx"
	viaStock     = "nginx as it comes"
	viaGateway   = "gateway"
	viaPublished = "gateway and the agent's published port"
)

// noPeople is the pool that gatewayPool needs and nobody asks for here.
const noPeople = `
[[pools]]
id = "people"
flake = "builtin:minimal"
`

// helloServer is a worker that costs as little as one can, and counts what arrives. Its
// queue of new connections, as that of proxyServer, is as long as the gateway's: what nginx
// has by default drops some of a large burst, and others are answered the sooner.
const helloServer = `
	server {
		listen 8000 backlog=4096;
		location / { return 200 "hello\n"; }
		location /status { stub_status; }
	}`

// proxyServer is nginx as it is set up to pass requests on, with the gateway's queue of new
// connections at port 8000 and its own at 8001.
func proxyServer(to netip.Addr) string {
	const listen = `
	server {
		listen %s;
		location / {
			proxy_pass http://workers;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Host $host;
			proxy_set_header X-Forwarded-Proto $scheme;
		}
	}`
	return fmt.Sprintf(`
	upstream workers {
		server %s:8000;
		keepalive 32;
		keepalive_requests 100000000;
	}`+listen+listen, to, "8000 proxy_protocol backlog=4096", "8001 proxy_protocol")
}

// onVCPUs has the pool's instances have that many, and an nginx in them a worker process for each.
func onVCPUs(pool string, n int) string {
	return strings.NewReplacer("vcpus = 1", fmt.Sprintf("vcpus = %d", n), "worker_processes 1;", fmt.Sprintf("worker_processes %d;", n)).Replace(pool)
}

// BenchmarkGateway measures the gateway's way to a worker that is awake against
// nginx's in a VM of the same size, in turns in one run: clients that keep their
// connections, and bursts of new ones.
func BenchmarkGateway(b *testing.B) {
	h := newHost(b, "qemu")
	pools := onVCPUs(gatewayPool, *vcpusFlag) + noPeople + nginxPool("workers", helloServer)
	h.deploy(pools)
	at := h.only("workers").IP
	h.deploy(pools + onVCPUs(nginxPool("proxies", proxyServer(at)), *vcpusFlag))
	proxies, gateways := h.only("proxies"), h.only("gateways")
	nginx, gateway := h.vmm(proxies.ID), h.vmm(gateways.ID)
	g := &gatewayBench{b: b, worker: at.String() + ":8000",
		ways: map[string]string{viaNginx: proxies.IP.String() + ":8000", viaStock: proxies.IP.String() + ":8001",
			viaGateway: gateways.IP.String() + ":8080", viaPublished: h.web()},
		vmms: map[string]int{viaNginx: nginx, viaStock: nginx, viaGateway: gateway, viaPublished: gateway}}
	for b.Loop() {
		for _, to := range g.ways {
			g.keepAlive(to, time.Second) // warm up
		}
		g.measureKeepAlive()
		g.measureBursts()
	}
	if n := h.events(h.only("workers").ID, mvm.InstanceWoken); n > 0 {
		b.Errorf("the worker was woken %d times: it was not awake all the time", n)
	}
}

type gatewayBench struct {
	b      *testing.B
	worker string
	ways   map[string]string // address by way
	vmms   map[string]int    // process by way
}

// measureKeepAlive has clients ask one after another.
func (g *gatewayBench) measureKeepAlive() {
	rates, p50s, costs := map[string][]float64{}, map[string][]time.Duration{}, map[string][]time.Duration{}
	for n := range gatewayRounds {
		for _, way := range turn(n) {
			before := g.cpu(way)
			took := g.keepAlive(g.ways[way], roundTime)
			costs[way] = append(costs[way], (g.cpu(way)-before)/time.Duration(max(len(took), 1)))
			rates[way] = append(rates[way], float64(len(took))/roundTime.Seconds())
			p50s[way] = append(p50s[way], middle(took))
		}
	}
	fmt.Printf("\n%d clients that keep their connections, medians of %d rounds of %v\n", gatewayClients, gatewayRounds, roundTime)
	g.table(func(w io.Writer) {
		fmt.Fprintln(w, "way\trequests/s\tof nginx\tp50\tof nginx\tVMM's CPU time per request\tof nginx")
		for _, way := range turn(0) {
			rate, p50 := middle(rates[way]), middle(p50s[way])
			cost := middle(costs[way])
			fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.1f ms\t%.2f\t%.2f ms\t%.2f\n", way, rate, rate/middle(rates[viaNginx]),
				ms(p50), ms(p50)/ms(middle(p50s[viaNginx])), ms(cost), ms(cost)/ms(middle(costs[viaNginx])))
		}
	})
	g.b.ReportMetric(middle(rates[viaGateway])/middle(rates[viaNginx]), "rate-ratio")
	g.b.ReportMetric(ms(middle(p50s[viaGateway]))/ms(middle(p50s[viaNginx])), "p50-ratio")
	g.b.ReportMetric(ms(middle(costs[viaGateway]))/ms(middle(costs[viaNginx])), "cpu-ratio")
}

// measureBursts has clients come all at once.
func (g *gatewayBench) measureBursts() {
	fmt.Printf("\nbursts of new connections, medians of %d rounds; of nginx in the same round\n", burstRounds)
	g.table(func(w io.Writer) {
		fmt.Fprintln(w, "connections\tway\tarrived\tanswered 200\tother\tp50\tof nginx\tVMM's CPU time per request\tof nginx")
		for _, size := range burstSizes {
			all, costs := map[string][]burst{}, map[string][]time.Duration{}
			for n := range burstRounds {
				for _, way := range turn(n) {
					before := g.cpu(way)
					all[way] = append(all[way], g.burst(g.ways[way], size))
					costs[way] = append(costs[way], (g.cpu(way)-before)/time.Duration(size))
				}
			}
			for _, way := range turn(0) {
				ratio := middle(ratios(p50sOf(all[way]), p50sOf(all[viaNginx])))
				arrived, good, other := []int{}, 0, map[string]int{}
				for _, r := range all[way] {
					arrived = append(arrived, r.arrived)
					good += r.answers["200"]
					for what, n := range r.answers {
						if what != "200" {
							other[what] += n
						}
					}
				}
				fmt.Fprintf(w, "%d\t%s\t%v\t%d of %d\t%v\t%.0f ms\t%.2f\t%.2f ms\t%.2f\n", size, way, arrived, good, size*burstRounds, other,
					ms(middle(p50sOf(all[way]))), ratio, ms(middle(costs[way])), middle(ratios(costs[way], costs[viaNginx])))
				if way == viaGateway {
					g.b.ReportMetric(ratio, fmt.Sprintf("burst-%d-p50-ratio", size))
				}
			}
		}
	})
}

// ratios are those of the same rounds: what else the machine does has changed the least
// between the two.
func ratios(of, reference []time.Duration) []float64 {
	var all []float64
	for n := range of {
		all = append(all, ms(of[n])/ms(reference[n]))
	}
	return all
}

// cpu is the CPU time that the way's VMM has used: on a busy machine it says more than
// clocks do.
func (g *gatewayBench) cpu(way string) time.Duration {
	var used unix.Timespec
	must(g.b, unix.ClockGettime(int32(^g.vmms[way]<<3|2), &used)) // the process's clock, as clock_getcpuclockid has it
	return time.Duration(used.Nano())
}

// turn is the order of the ways in a round: the next one begins in every second round, and the
// one after goes the other way round.
func turn(n int) []string {
	ways := []string{viaNginx, viaGateway, viaStock, viaPublished}
	first := n / 2 % len(ways)
	ways = append(ways[first:len(ways):len(ways)], ways[:first]...)
	if n%2 == 1 {
		slices.Reverse(ways)
	}
	return ways
}

func (g *gatewayBench) table(print func(io.Writer)) {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	print(w)
	must(g.b, w.Flush())
	fmt.Print(out.String())
}

// keepAlive has clients ask for the time, each on one connection, and returns how long
// each request took.
func (g *gatewayBench) keepAlive(addr string, for_ time.Duration) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	end := time.Now().Add(for_)
	for range gatewayClients {
		wg.Go(func() {
			var took []time.Duration
			c, err := g.connect(addr)
			if err != nil {
				g.b.Error(err)
				return
			}
			defer c.Close()
			in := bufio.NewReader(c)
			for time.Now().Before(end) {
				began := time.Now()
				if code, err := oneRequest(c, in); err != nil || code != "200" {
					g.b.Errorf("request to %s: %s %v", addr, code, err)
					return
				}
				took = append(took, time.Since(began))
			}
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
		})
	}
	wg.Wait()
	return all
}

// connect connects, and to a guest names itself as the agent does for its clients.
func (g *gatewayBench) connect(addr string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil || addr == g.ways[viaPublished] {
		return c, err
	}
	from, to := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	if _, err := c.Write(guestproto.AppendProxyHeader(nil, from, to)); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func p50sOf(all []burst) []time.Duration {
	var p50s []time.Duration
	for _, r := range all {
		p50s = append(p50s, middle(r.took))
	}
	return p50s
}

// burst has that many clients connect and ask at once.
func (g *gatewayBench) burst(addr string, size int) burst {
	before := g.accepted()
	r := rush(size, func() (net.Conn, error) { return g.connect(addr) })
	time.Sleep(2 * time.Second) // further tries arrive too
	r.arrived = g.accepted() - before - 1
	return r
}

// accepted is how many connections the worker has taken, this question's included.
func (g *gatewayBench) accepted() int {
	_, text, err := fetch(g.b.Context(), g.worker, "/status")
	must(g.b, err)
	var active, accepts, handled, requests int
	if _, err := fmt.Sscanf(text, "Active connections: %d \nserver accepts handled requests\n %d %d %d", &active, &accepts, &handled, &requests); err != nil {
		g.b.Fatalf("the worker's counters are %q: %v", text, err)
	}
	return accepts
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// middle is the median.
func middle[T int | float64 | time.Duration](of []T) T {
	var zero T
	if len(of) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(of))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
