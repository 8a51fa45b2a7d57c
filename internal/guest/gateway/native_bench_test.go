package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guest/gateway"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
)

// gatewayProcess has TestMain be a gateway on one CPU instead: "<port> <worker's port>
// <file for a CPU profile>".
const gatewayProcess = "MVM_TEST_GATEWAY_PROCESS"

// serveGateway is a gateway with a worker on loopback, until it is interrupted.
func serveGateway(what string) {
	var port, worker int
	var profile string
	_, _ = fmt.Sscan(what, &port, &worker, &profile)
	loopback := netip.MustParseAddr("127.0.0.1")
	h := &host{answer: says(guestproto.Awake{InstanceID: id3, IP: loopback})}
	r := gateway.New(gateway.Options{Host: h, Limits: gateway.Limits{ConnsPerSource: 4096}})
	route := webRoute("web", port, "/", anyOne)
	route.To.TargetPort = worker
	if err := r.Configure(guestproto.Configure{TenantID: "acme", PoolID: "gateways", InstanceID: "i-00000001", Role: mvm.RoleGateway,
		Routes: &mvm.RoutingTable{Routes: []mvm.Route{route}}, ListenPorts: []int{port},
		Net: &guestproto.Net{Address: netip.PrefixFrom(loopback, 8), Gateway: loopback}}); err != nil {
		panic(err)
	}
	if f, err := os.Create(profile); err == nil {
		_ = pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt)
	<-end
	_ = r.Close()
}

// BenchmarkAgainstNginx has a worker asked through the gateway and through nginx, each a
// process of its own, in turns, and compares what CPU time a request costs the process:
// on connections that are kept, and on new ones.
func BenchmarkAgainstNginx(b *testing.B) {
	worker := nginx(b, "server { listen 127.0.0.1:%d; location / { return 200 \"hello\\n\"; } }")
	proxy := nginx(b, fmt.Sprintf(`upstream workers { server %s; keepalive 32; keepalive_requests 100000000; }
	server { listen 127.0.0.1:%%d proxy_protocol; location / { proxy_pass http://workers; proxy_http_version 1.1;
		proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
		proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Proto $scheme; } }`, worker.at))
	routed := gatewayOf(b, worker)
	var costs [2][2]time.Duration // of the gateway and nginx: kept, new
	n := 0
	for b.Loop() {
		for who, p := range []*process{routed, proxy} {
			for kind, ask := range []func(string, int){askKept, askNew} {
				before := p.cpu()
				ask(p.at, 2000)
				costs[who][kind] += p.cpu() - before
			}
		}
		n += 2000
	}
	for kind, name := range []string{"kept", "new"} {
		g, x := costs[0][kind]/time.Duration(n), costs[1][kind]/time.Duration(n)
		b.ReportMetric(float64(g.Nanoseconds())/1e3, name+"-us")
		b.ReportMetric(float64(x.Nanoseconds())/1e3, name+"-nginx-us")
		b.ReportMetric(float64(g)/float64(x), name+"-ratio")
	}
}

// askKept sends n requests over 8 connections.
func askKept(at string, n int) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c, in := open(at)
			defer c.Close()
			for range n / 8 {
				ask(c, in)
			}
		})
	}
	wg.Wait()
}

// askNew sends n requests, each over a connection of its own, 50 at a time.
func askNew(at string, n int) {
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range n / 50 {
				c, in := open(at)
				ask(c, in)
				_ = c.Close()
			}
		})
	}
	wg.Wait()
}

func open(at string) (net.Conn, *bufio.Reader) {
	c, err := net.Dial("tcp", at)
	if err != nil {
		panic(err)
	}
	_, _ = c.Write(guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort("192.0.2.1:1000"), netip.MustParseAddrPort("192.0.2.2:80")))
	return c, bufio.NewReader(c)
}

func ask(c net.Conn, in *bufio.Reader) {
	_, _ = io.WriteString(c, "GET /hello HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 200 {
		panic(fmt.Sprint(res, err))
	}
	_, _ = io.Copy(io.Discard, res.Body)
}

// process is a server in a process of its own.
type process struct {
	at   string
	port int
	pid  int
}

// cpu is the CPU time that the process has used.
func (p *process) cpu() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.pid<<3|2), &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

func freePort(tb testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func gatewayOf(tb testing.TB, worker *process) *process {
	p := &process{port: freePort(tb)}
	p.at = "127.0.0.1:" + strconv.Itoa(p.port)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", fmt.Sprintf("%s=%d %d %s", gatewayProcess, p.port, worker.port, os.Getenv("MVM_TEST_PROFILE")))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	})
	eventually(tb, "the gateway takes connections", p.listens)
	return p
}

// nginx runs nginx with the configuration, where %d is the port, until the end of the
// test.
func nginx(tb testing.TB, servers string) *process {
	tb.Helper()
	dir, port := tb.TempDir(), freePort(tb)
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/log warn; worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
	access_log off; client_max_body_size 16m; keepalive_requests 100000000;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	%[2]s
}
`, dir, fmt.Sprintf(servers, port))
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(testenv.Nginx(tb), "-e", filepath.Join(dir, "log"), "-p", dir, "-c", path)
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start nginx: %v", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if tb.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			tb.Logf("nginx: %s", b)
		}
	})
	p := &process{at: "127.0.0.1:" + strconv.Itoa(port), port: port, pid: cmd.Process.Pid}
	eventually(tb, "nginx takes connections", p.listens)
	return p
}

func (p *process) listens() bool {
	c, err := net.Dial("tcp", p.at)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}
