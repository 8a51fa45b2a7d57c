// Package fakevmm is a stand-in for the program firecracker, for tests on hosts without KVM:
// its command line, its API with the order of requests that it insists on, its error bodies,
// its snapshots, its vsock, and a guest that remembers.
//
// It is stricter than Firecracker where a difference would hide a fault: a request that does
// not fit the description of the API is refused and noted; what a guest remembers is read
// from the memory file anew each time, so that a file that changes below a VMM shows; and
// without dirty page tracking, a diff lacks pages.
//
// Facts about Firecracker are of its sources, versions 1.15.1 and 1.16.1.
package fakevmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"mvm/internal/driver/firecracker/api"
	"mvm/test/fcapi"
)

// Knobs are what a test wants of the program. They are in a file beside it.
type Knobs struct {
	Version string `json:"version"` // "": 1.15.1
	// HangGuestToHost: after a restore, guests do not reach their host, as in 1.16.0.
	HangGuestToHost bool `json:"hang_guest_to_host"`
	// HangHostToGuest: after a bare pause and resume, hosts do not reach their guests, as in 1.16.1.
	HangHostToGuest bool `json:"hang_host_to_guest"`
	// ListenAfter is how long after its boot the guest begins to listen.
	ListenAfter time.Duration `json:"listen_after"`
	// Fail has a request answered with these words.
	Fail map[string]string `json:"fail"` // "PUT /vsock": words
}

// The files beside the program: what it is to do, and what it was asked.
const (
	KnobsFile    = "knobs.json"
	RequestsFile = "requests.log"
	// TUNFile, where it is there, is opened in place of /dev/net/tun, which is root's alone
	// on some hosts of tests.
	TUNFile = "tun"
)

// Request is a line of RequestsFile.
type Request struct {
	VM      string `json:"vm"`
	Route   string `json:"route"`
	Body    string `json:"body"`
	Invalid string `json:"invalid,omitempty"` // why the request does not fit the description
}

// Main is the program. It returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		_, _ = fmt.Fprintln(stderr, err)
		return 1
	}
	exe, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	doc, err := fcapi.Read()
	if err != nil {
		return fail(err)
	}
	k := knobs(filepath.Dir(exe))
	if len(args) == 2 && args[1] == "--version" {
		_, _ = fmt.Fprintf(stdout, "Firecracker v%s\n\n", k.Version)
		return 0
	}
	m := &machine{doc: doc, stdout: stdout, stderr: stderr, knobs: k, dir: filepath.Dir(exe), state: api.NotStarted, ended: make(chan int, 1)}
	m.cond = sync.NewCond(&m.mu)
	var sock string
	for i := 1; i+1 < len(args); i += 2 {
		switch args[i] {
		case "--id":
			m.id = args[i+1]
		case "--api-sock":
			sock = args[i+1]
		default:
			return fail(fmt.Errorf("Arguments parsing error: Found argument '%s' which wasn't expected", args[i])) //nolint:staticcheck // Firecracker's words
		}
	}
	if len(args)%2 == 0 || sock == "" {
		return fail(errors.New("Arguments parsing error")) //nolint:staticcheck // Firecracker's words
	}
	ln, err := net.Listen("unix", sock)
	if err != nil {
		return fail(fmt.Errorf("Failed to open the API socket at: %s. Check that it is not already used. %w", sock, err)) //nolint:staticcheck // Firecracker's words
	}
	burn(20 * time.Millisecond)           // its start, so that it has used a processor
	go func() { _ = http.Serve(ln, m) }() //nolint:gosec // the only client is the test's driver
	return <-m.ended
}

func knobs(dir string) (k Knobs) {
	if b, err := os.ReadFile(filepath.Join(dir, KnobsFile)); err == nil {
		_ = json.Unmarshal(b, &k)
	}
	if k.Version == "" {
		k.Version = "1.15.1"
	}
	return k
}

func burn(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

// machine is the process.
type machine struct {
	id, dir string
	doc     *fcapi.Description
	stdout  io.Writer
	stderr  io.Writer
	knobs   Knobs
	ended   chan int

	mu    sync.Mutex
	cond  *sync.Cond // of state
	state string

	configured bool // something that a snapshot has was set
	boot       *api.BootSource
	machine    api.MachineConfig
	drives     []api.Drive
	network    *api.NetworkInterface
	vsock      *api.Vsock
	entropy    bool
	serialPath string
	serial     io.Writer
	metrics    *os.File
	memory     *memory
	restored   bool // and no connection of the guest has worked since
	booted     time.Time
	bare       bool // paused and resumed without a snapshot
	paused     bool // since the last snapshot
	listener   net.Listener
	tap        *os.File
}

// end ends the process with the code.
func (m *machine) end(code int) {
	select {
	case m.ended <- code:
	default:
	}
}

// ServeHTTP answers a request of the API.
func (m *machine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 51_200))
	invalid := m.doc.Check(r.Method, r.URL.Path, body)
	m.note(r, body, invalid)
	if invalid != nil {
		refuse(w, "An error occurred when deserializing the json body of a request: "+invalid.Error()+".")
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	route := r.Method + " " + r.URL.Path
	if words := m.knobs.Fail[route]; words != "" {
		refuse(w, words)
		return
	}
	if route == "GET /" {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(api.Info{AppName: "Firecracker", ID: m.id, State: m.state, Version: m.knobs.Version})
		return
	}
	if err := m.do(route, body); err != nil {
		refuse(w, err.Error())
		if errors.Is(err, errDirty) {
			time.AfterFunc(10*time.Millisecond, func() { m.end(1) }) // once the answer is on its way
		}
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func refuse(w http.ResponseWriter, words string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"fault_message": words})
}

// note appends the request to the file of all of them.
func (m *machine) note(r *http.Request, body []byte, invalid error) {
	line := Request{VM: m.id, Route: m.doc.Route(r.Method, r.URL.Path), Body: string(body)}
	if line.Route == "" {
		line.Route = r.Method + " " + r.URL.Path
	}
	if invalid != nil {
		line.Invalid = invalid.Error()
	}
	b, _ := json.Marshal(line)
	f, err := os.OpenFile(filepath.Join(m.dir, RequestsFile), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	_, _ = f.Write(append(b, '\n'))
	_ = f.Close()
}

// Firecracker's words.
var (
	errPreBoot  = errors.New("The requested operation is not supported before starting the microVM.")                                  //nolint:staticcheck // Firecracker's words
	errPostBoot = errors.New("The requested operation is not supported after starting the microVM.")                                   //nolint:staticcheck // Firecracker's words
	errNotFresh = errors.New("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.") //nolint:staticcheck // Firecracker's words
	errPathID   = errors.New("The id from the path does not match the id from the body!")                                              //nolint:staticcheck // Firecracker's words
	errBadID    = errors.New("API Resource IDs can only contain alphanumeric characters and underscores.")                             //nolint:staticcheck // Firecracker's words
	errNoKernel = errors.New("Start microvm error: Cannot start microvm without kernel configuration.")                                //nolint:staticcheck // Firecracker's words
	// errDirty is of a failed load, after which the process ends.
	errDirty = errors.New("Load snapshot error") //nolint:staticcheck // Firecracker's words
)

// do does what a request asks for. mu is held.
func (m *machine) do(route string, body []byte) error {
	before := m.state == api.NotStarted
	switch method, path, _ := strings.Cut(route, " "); {
	case route == "PUT /actions":
		return m.act(body, before)
	case route == "PATCH /vm", route == "PUT /snapshot/create":
		if before {
			return errPreBoot
		}
		if method == "PATCH" {
			return m.setState(body)
		}
		return m.create(body)
	case !before:
		return errPostBoot
	case route == "PUT /snapshot/load":
		if m.configured {
			return errNotFresh
		}
		return m.load(body)
	default:
		return m.configure(path, body)
	}
}

func into[T any](body []byte) (v T, err error) {
	err = json.Unmarshal(body, &v)
	return v, err
}

// configure takes what comes before the start.
func (m *machine) configure(path string, body []byte) error {
	switch path { // not part of a snapshot
	case "/logger":
		return nil
	case "/metrics":
		if m.metrics != nil {
			return errors.New("Metrics error: Reinitialization of metrics not allowed.") //nolint:staticcheck // Firecracker's words
		}
		c, err := into[api.Metrics](body)
		if err == nil {
			m.metrics, err = openNonblock(c.Path)
		}
		return err
	case "/serial":
		c, err := into[api.Serial](body)
		m.serialPath = c.Path
		return err
	}
	m.configured = true
	switch {
	case path == "/boot-source":
		c, err := into[api.BootSource](body)
		if err == nil {
			err = readable(c.Kernel, c.Initrd)
		}
		m.boot = &c
		return wrap("Boot source error: The kernel file cannot be opened", err)
	case path == "/machine-config":
		c, err := into[api.MachineConfig](body)
		if err == nil && c.VCPUs > 1 && c.VCPUs%2 == 1 && c.SMT {
			err = errors.New("Machine config error: The vCPU number is invalid!") //nolint:staticcheck // Firecracker's words
		}
		m.machine = c
		return err
	case path == "/entropy":
		m.entropy = true
		return nil
	case path == "/vsock":
		c, err := into[api.Vsock](body)
		m.vsock = &c
		if err == nil {
			err = m.listen()
		}
		return wrap("Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket", err)
	case strings.HasPrefix(path, "/drives/"):
		return m.addDrive(strings.TrimPrefix(path, "/drives/"), body)
	case strings.HasPrefix(path, "/network-interfaces/"):
		return m.addNetwork(strings.TrimPrefix(path, "/network-interfaces/"), body)
	}
	return fmt.Errorf("the stand-in does not know PUT %s", path)
}

func (m *machine) addDrive(id string, body []byte) error {
	c, err := into[api.Drive](body)
	if err == nil {
		err = checkID(id, c.ID)
	}
	if err == nil {
		err = openDrive(c)
	}
	m.drives = append(m.drives, c)
	return err
}

func openDrive(c api.Drive) error {
	flag := os.O_RDWR
	if c.ReadOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(c.Path, flag, 0)
	if err != nil {
		return wrap("Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file", err)
	}
	return f.Close()
}

func (m *machine) addNetwork(id string, body []byte) error {
	c, err := into[api.NetworkInterface](body)
	if err == nil {
		err = checkID(id, c.ID)
	}
	if err == nil {
		m.tap, err = m.openTAP(c.TAP)
	}
	m.network = &c
	return wrap("Network config error: Open tap device failed", err)
}

func checkID(path, body string) error {
	if strings.Trim(strings.ToLower(path), "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || path == "" {
		return errBadID
	}
	if path != body {
		return errPathID
	}
	return nil
}

func readable(paths ...string) error {
	for _, p := range paths {
		if p == "" {
			continue
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	return nil
}

// act starts the machine, writes metrics or presses keys.
func (m *machine) act(body []byte, before bool) error {
	a, err := into[api.Action](body)
	switch {
	case err != nil:
		return err
	case a.Type == api.InstanceStart && !before:
		return errPostBoot
	case a.Type == api.InstanceStart:
		return m.start()
	case before:
		return errPreBoot
	case a.Type == api.FlushMetrics:
		if m.metrics != nil {
			_, err = fmt.Fprintf(m.metrics, `{"utc_timestamp_ms":1,"block":{"read_bytes":%d,"write_bytes":512},"net":{"rx_bytes_count":0}}`+"\n", 4096)
		}
		return err
	}
	_, _ = fmt.Fprintf(m.serial, "reboot: Restarting system\n")
	m.end(0) // the guest's init resets the machine
	return nil
}

// start boots the guest.
func (m *machine) start() error {
	if m.boot == nil {
		return errNoKernel
	}
	head := make([]byte, 4)
	f, err := os.Open(m.boot.Kernel)
	if err == nil {
		_, err = io.ReadFull(f, head)
		_ = f.Close()
	}
	if err != nil || string(head) != "\x7fELF" {
		return errors.New("Start microvm error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image") //nolint:staticcheck // Firecracker's words
	}
	m.memory = newMemory(int64(m.machine.MemMiB)<<20, m.machine.TrackDirtyPages)
	if err := m.openSerial(); err != nil {
		return err
	}
	if err := m.memory.store(bootGuest(m.boot.Args)); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(m.serial, "Linux version 6.1 (stand-in) %s\n", m.boot.Args)
	m.booted = time.Now()
	m.setRunning(api.Running)
	return nil
}

func (m *machine) setRunning(state string) {
	m.state = state
	m.cond.Broadcast()
}

func (m *machine) setState(body []byte) error {
	c, err := into[api.VM](body)
	if err != nil {
		return err
	}
	if c.State == api.Paused {
		m.paused = m.paused || m.state == api.Running
		m.setRunning(api.Paused)
		return nil
	}
	m.bare = m.bare || m.paused && !m.restored
	m.setRunning(api.Running)
	return nil
}

// openSerial opens where the guest's console goes: what the program prints, if nobody said.
func (m *machine) openSerial() error {
	m.serial = m.stdout
	if m.serialPath == "" {
		return nil
	}
	f, err := openNonblock(m.serialPath)
	m.serial = f
	return wrap("Start microvm error: Cannot open the serial output", err)
}

func wrap(words string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", words, err)
}
