package mvm_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rule says which of the module's packages a package may import beside the nouns
// (package mvm), and why. "*" is any, and "!" before a package takes it out of that. A
// new package needs a line here, and a line or permission that nothing needs must go.
type rule struct {
	may   string
	why   string
	tests string // what its tests may import beside
}

var rules = map[string]rule{
	".":             {"", "the nouns stand alone, so that everything can speak in their words", ""},
	"cmd/mvm":       {"internal/cli internal/host internal/api", "flags, signals and exit codes", ""},
	"internal/host": {"* !internal/cli", "wiring: the only place that knows which driver and which network there are; the command line asks it, not the other way round", "internal/cli"},
	"cmd/mvm-guest": {"internal/guest internal/guest/* internal/guestproto internal/guestproto/mux",
		"the guest agent stays small and knows nothing of hosts", ""},

	"internal/pki":             {"internal/sys", "certificates are files; who shows them to whom is not its business", "internal/testenv"},
	"internal/remote":          {"internal/api internal/pki", "the API's handlers for other machines, whoever answers", "internal/testenv"},
	"internal/display":         {"", "functions on strings", ""},
	"internal/cli":             {"internal/api internal/cli/builds internal/cli/command internal/cli/hosts internal/cli/images internal/cli/instances internal/cli/tenants internal/display", "the tree of commands, and how a run of it ends", "internal/build internal/manifest internal/testenv"},
	"internal/cli/command":     {"internal/api internal/display internal/manifest internal/pki internal/sys", "what every command has: it knows none of them", ""},
	"internal/cli/tenants":     {"internal/api internal/cli/command internal/desired internal/display internal/egress internal/limits internal/manifest internal/manifest/render internal/strictjson internal/trust", "commands on what is declared: they parse, ask the agent through the API and print; desired signs where there is no agent", ""},
	"internal/cli/builds":      {"internal/api internal/build internal/cli/command internal/display", "commands on builds: they ask the agent through the API and print", ""},
	"internal/cli/instances":   {"internal/api internal/cli/command internal/display internal/filecopy", "commands on instances: they ask the agent through the API and print", ""},
	"internal/cli/images":      {"internal/cli/command internal/image/program internal/manifest", "commands on images that people make on their own machine: no agent is asked", ""},
	"internal/cli/hosts":       {"internal/api internal/audit internal/cli/command internal/doctor internal/manifest internal/pki internal/sys", "commands on a host; doctor alone looks at it, to say why no agent starts", ""},
	"internal/filecopy":        {"", "a stream format and the files of one machine, small because it is in the guest, and with no word on where the stream goes", ""},
	"internal/doctor":          {"internal/driver/firecracker/api internal/sys", "it checks the host without an agent; which versions of Firecracker are known is in api", "internal/hostd internal/hostd/hostdtest"},
	"internal/manifest":        {"internal/egress internal/limits internal/spelling internal/stricttoml", "files of users become nouns", "internal/manifest/render"},
	"internal/manifest/render": {"internal/manifest", "a deployment in, its manifest out", ""},
	"internal/desired":         {"internal/egress internal/limits internal/spelling", "pure: bytes in, a checked desired state in nouns out", ""},
	"internal/trust":           {"internal/desired internal/sys", "keys on disk", ""},
	"internal/production":      {"internal/desired internal/manifest internal/pki internal/secrets internal/sys internal/trust", "it looks at what the agent would start with, and starts nothing", ""},
	"internal/spelling":        {"", "a function on strings", ""},
	"internal/api":             {"internal/api/peer internal/api/socket internal/api/wire internal/build internal/limits internal/strictjson internal/sys", "server and client speak in nouns to who uses them; the agent is behind an interface", ""},
	"internal/api/socket":      {"", "streams of commands and lines over a WebSocket, whatever they are of", ""},
	"internal/api/peer":        {"", "users of a unix socket, whatever they ask for", ""},
	"internal/api/wire":        {"internal/build", "the form of nouns in the API, and nothing that sends it", "internal/testenv/filled"},

	"internal/agent": {"internal/api internal/aside internal/build internal/builds internal/channelcheck internal/declare internal/deliver internal/display internal/driver internal/driver/atrest internal/fleet internal/folders internal/guestproto internal/health internal/idle internal/image internal/ingress internal/journal internal/ledger internal/lifecycle internal/limits internal/live internal/mailbox internal/netprobe internal/netstate internal/network internal/plan internal/policy" +
		" internal/ready internal/reconcile internal/recovery internal/resolver internal/schedule internal/session internal/snapshot internal/store internal/sys internal/tenantkey internal/wait",
		"it asks for contracts and pure packages, never for one driver or one network, so that all of it runs against fakes",
		"internal/desired internal/driver/fake internal/guestlog internal/network/fakenet internal/image/fakeimage internal/publish internal/secrets internal/testenv internal/testenv/quick"},
	"internal/ingress":   {"internal/display internal/guestproto internal/publish internal/ratetable internal/store internal/wait", "what guests and clients ask for; guests, the queue of operations and the making of instances are behind interfaces", ""},
	"internal/session":   {"internal/display internal/guestlog internal/guestproto internal/sys internal/wait", "streams between people and guests; guests and folders of instances are behind an interface", ""},
	"internal/journal":   {"internal/audit internal/store internal/wait", "the audit log: it writes what it is told in transactions of others, and knows no other part of the agent", ""},
	"internal/declare":   {"internal/desired internal/display internal/plan internal/store internal/wait", "what people declare goes on record, planned; tenants, pools and reconcile are behind interfaces", ""},
	"internal/deliver":   {"internal/guestproto internal/secrets internal/store internal/wait", "it builds configurations from records and asks guests to take them; who the guests are and what opens secrets is behind interfaces", ""},
	"internal/reconcile": {"internal/display internal/plan internal/store internal/wait", "passes and tasks; plan says what is to be done, and who makes instances, builds images and runs operations is behind interfaces", ""},
	"internal/schedule":  {"internal/store internal/wait", "next wakes: a pure decision and one loop; who wakes instances and what the clock is are behind interfaces", ""},
	"internal/idle":      {"internal/display internal/driver internal/guestproto internal/policy internal/store internal/wait", "the idle loop: it measures, has policy decide and orders; who has the instances and does what it orders is behind interfaces", ""},
	"internal/ready":     {"internal/driver internal/policy internal/wait", "a cache of snapshots in memory; where snapshots are and how they are read is behind an interface", ""},
	"internal/aside":     {"internal/folders internal/snapshot internal/store internal/wait", "records and files of snapshots that were set aside; what of the host they fit is behind an interface", ""},
	"internal/ledger":    {"internal/folders internal/guestlog internal/snapshot internal/store internal/sys", "what files are for, and records; images, and what keeps operations away, are behind interfaces", ""},
	"internal/build":     {"", "a noun: what a build of an image is; no I/O", ""},
	"internal/builds":    {"internal/build internal/display internal/image internal/sys internal/wait", "builds of images as objects; the image store, pools and the audit log are behind interfaces", ""},
	"internal/fleet":     {"internal/build internal/delta internal/egress internal/image internal/limits internal/network internal/plan internal/quota internal/secrets internal/store internal/tenantkey internal/wait", "records of tenants, pools and instances; who acts on them is behind interfaces", ""},
	"internal/folders":   {"internal/guestproto internal/snapshot internal/sys", "names and folders of instances, and whose they are; it knows no operation on them", ""},
	"internal/health":    {"internal/display internal/guestproto internal/store", "what guests say of their services; guests, and who is told, are behind interfaces", ""},
	"internal/lifecycle": {"internal/display internal/driver internal/folders internal/guestclock internal/guestproto internal/plan internal/repair internal/snapshot internal/store internal/sys internal/wait", "runners and operations: the parts that their steps act on are behind interfaces, and none of them is imported", ""},
	"internal/recovery":  {"internal/display internal/folders internal/repair internal/store internal/wait", "what a start of the agent finds; VMMs, networks and the queue of operations are behind interfaces", ""},
	"internal/live":      {"internal/display internal/driver internal/folders internal/guestlog internal/guestproto internal/image internal/sys internal/wait", "VMMs and their guests; ingress, and who is told of an end, are behind interfaces", ""},
	"internal/guestlog":  {"internal/guestproto internal/sys", "lines from whatever stream it is given, to files in whatever folder; it knows of no instance", "internal/testenv"},
	"internal/publish":   {"internal/guestproto", "TCP on the host to whatever is given to connect with; it knows of no instance", "internal/testenv"},
	"internal/plan":      {"internal/delta internal/limits internal/quota", "pure: desired and observed in, steps out", ""},
	"internal/mailbox":   {"internal/display internal/guestproto", "messages that gateways keep, as their guests say; guests and records are behind an interface", "internal/guest/chat internal/guest/chat/hook internal/guest/chat/posted"},
	"internal/quota":     {"", "pure: instances and limits in, what counts and what is refused out", ""},
	"internal/repair":    {"", "pure: what a crash left of an instance in, what to do about it out", ""},
	"internal/delta":     {"", "pure: two values in, what differs out", ""},
	"internal/policy":    {"internal/quota", "pure: measures, settings and a clock in, decisions with their reasons out", ""},
	"internal/secrets":   {"internal/sys internal/tenantkey", "bytes at rest", ""},
	"internal/store":     {"internal/audit internal/limits internal/sys", "durable state: it takes and returns nouns, and keeps records of its own", "internal/testenv internal/testenv/durable internal/testenv/filled"},
	"internal/audit":     {"", "pure: entries in, hashes and a verdict out", ""},
	"internal/sim":       {"", "a simulation of a host is only tests", "*"},
	"internal/metrics":   {"", "it counts what it is told of, and knows nobody", ""},

	"internal/snapshot":          {"internal/driver internal/sys internal/tenantkey internal/wait", "what a snapshot is: it knows files and records, and no operation on them", "internal/driver/atrest internal/secrets internal/snapshot/segment"},
	"internal/snapshot/sealed":   {"internal/sys internal/tenantkey", "a file format: it knows what is sealed by a number only", "internal/secrets"},
	"internal/snapshot/segment":  {"internal/snapshot/sealed internal/sys internal/tenantkey", "memory of guests at rest: the memory of a VMM is behind an interface, and no driver is imported", "internal/secrets internal/testenv/durable internal/testenv/quick"},
	"internal/driver":            {"internal/tenantkey", "the contract; a snapshot comes with the key that seals it", ""},
	"internal/driver/atrest":     {"internal/driver internal/snapshot internal/snapshot/sealed internal/snapshot/segment internal/sys", "memory of VMMs to sealed files and back, whatever VMM: the memory is behind an interface", ""},
	"internal/driver/drivertest": {"internal/driver internal/guestproto internal/secrets internal/tenantkey internal/testenv internal/testenv/durable", "the suite sees the contract and the guest, no driver", ""},
	"internal/driver/fake":       {"internal/driver internal/driver/atrest internal/filecopy internal/guestproto internal/strictjson internal/sys", "it plays the guest, so it speaks its protocol, and keeps its files as a driver does", "internal/driver/drivertest internal/testenv"},
	"internal/driver/rundir":     {"internal/driver internal/driver/vmproc internal/sys internal/undo", "files beside the processes of VMMs, whatever VMM they are: it knows no driver", ""},
	"internal/driver/console":    {"internal/sys", "output of guests, wherever it comes from", ""},
	"internal/driver/qemu": {"internal/driver internal/driver/atrest internal/driver/console internal/driver/qemu/qmp internal/driver/qemu/spawn internal/driver/rundir internal/driver/vmproc internal/channel internal/sys internal/undo", "a driver knows its contract and the host, not who calls it",
		"internal/driver/drivertest internal/guestproto internal/hostd internal/hostd/hostdtest internal/image internal/jail internal/limits internal/testenv internal/testenv/inject"},
	"internal/driver/firecracker": {"internal/channel internal/driver internal/driver/console internal/driver/firecracker/api internal/driver/rundir internal/driver/vmproc internal/guestproto internal/sys internal/undo",
		"a driver knows its contract and the host, not who calls it; it speaks with the guest of its self-test alone", "internal/driver/drivertest internal/image internal/testenv test/fakevmm"},
	"internal/driver/firecracker/api": {"", "a protocol", "test/fcapi"},
	"internal/driver/qemu/qmp":        {"", "a protocol", ""},
	"internal/driver/qemu/spawn":      {"internal/driver/vmproc internal/jail internal/strictjson internal/sys", "what needs root to start QEMU, with nothing that a guest or a folder of others can reach", "internal/testenv"},
	"internal/jail":                   {"internal/sys", "walls around a program, whatever it is: it knows no VMM", "internal/testenv"},
	"internal/driver/vmproc":          {"internal/jail internal/sys", "processes of VMMs, whatever VMM they are: it knows no driver", ""},
	"internal/channel":                {"internal/guestproto internal/guestproto/mux internal/sys", "carries streams, whatever is said on them", ""},

	"internal/channelcheck":        {"internal/display internal/guestproto", "channels of a tenant, in its records and as its gateways say; guests and records are behind an interface", "internal/guest/chat internal/guest/chat/hook internal/guest/chat/posted internal/guest/chat/telegram internal/testenv test/botapi"},
	"internal/netprobe":            {"internal/display internal/network", "probes of tenants' networks from inside guests, which are behind an interface", ""},
	"internal/resolver":            {"internal/egress internal/network internal/wait", "the name server of guests: networks are behind their contract, and it knows no record", ""},
	"internal/netstate":            {"internal/egress internal/network internal/store internal/wait", "records in, a whole network Config applied; who changes the records tells it", "internal/network/fakenet"},
	"internal/limits":              {"", "pure: names, defaults and bounds of limits", ""},
	"internal/egress":              {"", "destinations as text and as they are meant, and no network", ""},
	"internal/network":             {"internal/egress", "the contract", "internal/network/networktest"},
	"internal/network/networktest": {"internal/egress internal/network", "the suite sees the contract, no network", ""},
	"internal/network/fakenet":     {"internal/network", "a network in memory", "internal/network/networktest"},
	"internal/network/linuxnet":    {"internal/egress internal/network internal/undo", "the kernel's side of the contract", "internal/hostd internal/hostd/hostdtest internal/network/networktest"},

	"internal/owner":           {"internal/sys", "whose a host's shared things are; it knows nothing of what they are for", "internal/testenv"},
	"internal/hostd":           {"internal/driver/vmproc internal/network internal/strictjson internal/sys", "what needs root, served: it must have nothing that speaks with guests or opens files of others", "internal/driver/qemu/spawn internal/hostd/hostdtest internal/network/fakenet internal/network/networktest internal/testenv"},
	"internal/hostd/hostdtest": {"internal/driver/qemu/spawn internal/driver/vmproc internal/hostd internal/network/fakenet internal/testenv", "a server for tests", ""},

	"internal/image":           {"internal/guest/definition internal/image/cpio internal/image/ext4 internal/strictjson internal/sys internal/wait", "the store and its contract know no builder but folders, whose files it may add to an initrd; it looks into what was built for definitions that no guest would start", "internal/image/fakeimage internal/image/imagetest"},
	"internal/image/boot":      {"internal/image internal/image/cpio internal/image/vmlinux internal/sys", "what every image boots with; it knows no builder", ""},
	"internal/image/builtin":   {"internal/guest/definition internal/image internal/image/boot internal/image/erofs", "one builder, and what it knows of OpenClaw in images of others", "internal/image/imagetest internal/testenv"},
	"internal/image/imagetest": {"internal/image", "the suite sees the contract, no builder", ""},
	"internal/image/program":   {"internal/guest/definition internal/image internal/image/cpio internal/manifest internal/sys", "a description and files of the user in, a folder out; it runs as the user, and knows no store and no builder", ""},
	"internal/image/flatten":   {"internal/image/erofs", "layers in, a tree in memory out; it runs in a process without rights", ""},
	"internal/image/oci":       {"internal/guest/definition internal/image internal/image/boot internal/image/erofs internal/image/flatten internal/publicnet internal/sys", "one builder, and the process without rights that unpacks for it", "internal/image/imagetest internal/testenv test/hub"},
	"internal/image/nix":       {"internal/image internal/image/boot internal/image/nix/cage internal/jail internal/publicnet internal/stricttoml", "one builder, and the way out of the cage that it builds in; jail finds the libraries of Nix", "internal/image/fakeimage internal/image/imagetest internal/sys internal/testenv"},
	"internal/image/nix/cage":  {"internal/sys", "a place for programs of strangers, whatever they are: it knows no image", ""},
	"internal/publicnet":       {"", "a function on addresses", ""},
	"internal/image/fakeimage": {"internal/image", "images for tests, built in no time", ""},
	"internal/image/cpio":      {"", "a file format", ""},
	"internal/image/erofs":     {"", "a file format", ""},
	"internal/image/ext4":      {"", "a file format", ""},
	"internal/image/vmlinux":   {"", "a file format", ""},

	"internal/guestproto":          {"", "what host and guest say; small, because it is in the guest", ""},
	"internal/guestproto/mux":      {"", "streams on one port; small, because it is in the guest", ""},
	"internal/guest":               {"internal/filecopy internal/guest/definition internal/guest/workload internal/guestproto internal/guestproto/mux", "the logic inside the VM", ""},
	"internal/guest/definition":    {"internal/strictjson", "pure: what an image says of its services, for the guest and for who builds the image", ""},
	"internal/guest/workload":      {"internal/guest/definition internal/guestproto", "services of an image as processes, their output and readiness; it knows no host", ""},
	"internal/guest/linux":         {"internal/guest internal/guest/definition internal/guest/workload internal/guestproto", "what the guest agent does to its kernel", ""},
	"internal/guest/chat/posted":   {"internal/guest/requestkey internal/guestproto", "pure: a request in, whether it is the platform's and its messages out", ""},
	"internal/guest/requestkey":    {"internal/urlpath", "pure: a request in, what it names out", ""},
	"internal/guest/gateway":       {"internal/guest/gateway/* internal/guest/requestkey internal/guestproto", "a server and what it passes on: who is awake, which route it is and how HTTP is read are each a package", "internal/testenv"},
	"internal/guest/gateway/group": {"", "goroutines and who waits for them", ""},
	"internal/guest/gateway/roster": {"internal/guest/gateway/group internal/guest/gateway/sock internal/guest/gateway/wire internal/guestproto",
		"instances and connections to them; the host is behind an interface, and it knows no client and no route", ""},
	"internal/guest/gateway/sock":  {"", "system calls on sockets", ""},
	"internal/guest/gateway/table": {"internal/guest/gateway/wire internal/guest/requestkey internal/guestproto internal/urlpath", "pure: a request and who sent it in, its route and user out", ""},
	"internal/guest/gateway/wire":  {"", "HTTP/1.1 as bytes, whoever sends them", ""},
	"internal/guest/chat":          {"internal/guestproto internal/ratetable", "messages of chats on their way to workers; who has the workers, and what a platform is like, is behind interfaces", ""},
	"internal/guest/chat/hook":     {"internal/guest/chat internal/guest/chat/inbox internal/guest/chat/posted internal/guestproto", "platforms that post messages and keep none", ""},
	"internal/guest/chat/discord":  {"internal/guest/chat internal/guest/chat/hook internal/guest/chat/posted internal/guestproto", "one platform, whose messages are kept as those of hook are", "internal/guest/chat/inbox test/discordapi"},
	"internal/guest/chat/telegram": {"internal/guest/chat internal/guestproto", "one platform; the disk on which it keeps what waits is behind an interface", "internal/guest/chat/hook internal/guest/chat/inbox test/botapi"},
	"internal/guest/chat/inbox":    {"", "messages on a disk, whoever sends or gets them", "internal/testenv internal/testenv/durable"},

	"internal/sys":             {"", "named operations on the operating system", "internal/testenv"},
	"internal/strictjson":      {"", "a function on bytes", ""},
	"internal/stricttoml":      {"internal/spelling", "bytes in, values with their places and all problems out; it knows no key", ""},
	"internal/guestclock":      {"", "pure: arithmetic on times", ""},
	"internal/ratetable":       {"", "a data structure, small because it is in the guest", ""},
	"internal/tenantkey":       {"", "keys that wrap keys: cryptography and nothing else", ""},
	"internal/undo":            {"", "a data structure", ""},
	"internal/urlpath":         {"", "a function on strings, small because it is in the guest", ""},
	"internal/wait":            {"", "ways to wait, for whatever the caller waits for", ""},
	"internal/testenv":         {"internal/image internal/image/boot internal/image/builtin", "what tests need of the machine", ""},
	"internal/testenv/durable": {"internal/testenv", "what a process has written, seen in its system calls", ""},
	"internal/testenv/filled":  {"", "values with every field set", ""},
	"internal/testenv/quick":   {"", "a folder for tests, without all that a machine needs for images", ""},
	"internal/testenv/inject":  {"", "system calls in processes that a test has started", ""},

	"packaging":        {"", "the test of the units", "internal/hostd internal/manifest internal/owner internal/store internal/testenv"},
	"docs":             {"", "the test that the documentation names commands that exist", "internal/cli"},
	"test/botapi":      {"", "a Bot API server for tests and the demo", ""},
	"test/fcapi":       {"", "Firecracker's description of its API, for tests", ""},
	"test/fakevmm":     {"internal/driver/firecracker/api internal/guestproto test/fcapi", "it plays Firecracker and the guest in it, and knows no driver", ""},
	"test/hub":         {"", "an image registry for tests", ""},
	"test/discordapi":  {"", "Discord for tests", ""},
	"test/stubmodel":   {"", "a model server for tests and the demo", ""},
	"test/chat":        {"", "guests of gateways and workers as processes, with the real OpenClaw", "*"},
	"test/demo":        {"internal/owner test/botapi test/stubmodel", "it runs the program as a user does; owner says where the agent is that has the networks", ""},
	"test/durable":     {"", "commands, and what of them outlives a crash of the host", "*"},
	"test/figures":     {"", "it reads the source of all packages and imports none", ""},
	"test/mutate":      {"", "small bugs in packages, and whether tests notice", ""},
	"test/peers":       {"", "agent, gateways and publisher over a network that swallows the dead", "*"},
	"test/script":      {"", "the command line's manual, executed", "*"},
	"test/vm":          {"", "real microVMs from end to end", "*"},
	"test/vm/workload": {"internal/guestproto internal/guestproto/mux", "what runs in the guests of test/vm", ""},
}

// rootDeny are packages of the standard library that the nouns do without: no I/O,
// no goroutine, no lock.
var rootDeny = []string{"os", "net/http", "sync", "sync/atomic", "os/exec", "os/signal", "syscall", "log", "log/slog", "io/fs", "path/filepath"}

// inGuest are the packages of ours that may be in the guest agent.
const inGuest = "internal/filecopy internal/guest internal/guest/* internal/guestproto internal/guestproto/mux internal/ratetable internal/strictjson internal/urlpath"

// guestMay are the modules of others that may be in the guest agent.
var guestMay = []string{"go.etcd.io/bbolt", "github.com/coder/websocket", "github.com/libp2p/go-yamux/v5", "github.com/mdlayher/vsock", "github.com/vishvananda/netlink", "golang.org/x/sys"}

// source is one parsed Go file of the module.
type source struct {
	path string // slash-separated, relative to the module
	test bool
	file *ast.File
	fset *token.FileSet
	text string
}

func (s source) pkg() string { return path.Dir(s.path) }

func (s source) line(p token.Pos) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(p).Line)
}

// imports returns what the file imports: ours relative to the module, with "." for
// the nouns, and the others as they are.
func (s source) imports() (ours, others []string) {
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		if p == "mvm" {
			ours = append(ours, ".")
		} else if rel, ok := strings.CutPrefix(p, "mvm/"); ok {
			ours = append(ours, rel)
		} else {
			others = append(others, p)
		}
	}
	return ours, others
}

// sources parses the module, without the programs in testdata.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != "." && (name == "testdata" || name == "bin" || name[0] == '.' || name[0] == '_') {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, b, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(p), strings.HasSuffix(name, "_test.go"), f, fset, string(b)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// allows returns the pattern of a list by which the package is allowed, "" where none does.
func allows(list, pkg string) string {
	fields := strings.Fields(list)
	if slices.Contains(fields, "!"+pkg) {
		return ""
	}
	for _, pattern := range fields {
		below, ok := strings.CutSuffix(pattern, "/*")
		if pattern == "*" || pattern == pkg || ok && strings.HasPrefix(pkg, below+"/") {
			return pattern
		}
	}
	return ""
}

func TestImports(t *testing.T) {
	seen := map[string]bool{}
	used := map[string]bool{} // package, "may" or "tests", and the pattern
	for _, s := range sources(t) {
		pkg := s.pkg()
		seen[pkg] = true
		r, ok := rules[pkg]
		if !ok {
			t.Errorf("%s: package %s has no line in the rules of arch_test.go: add it with what it may import and why", s.path, pkg)
			continue
		}
		ours, _ := s.imports()
		for _, i := range ours {
			may, tests := allows(r.may, i), ""
			if s.test {
				tests = allows(r.tests, i)
			}
			switch {
			case may != "":
				used[pkg+" may "+may] = used[pkg+" may "+may] || !s.test
			case tests != "":
				used[pkg+" tests "+tests] = true
			case i == "." && (s.test || pkg != "."), i == pkg && s.test:
			default:
				t.Errorf("%s imports %s, but of ours it may import [%s]: %s", s.path, i, r.may, r.why)
			}
		}
	}
	wantNoStaleRules(t, seen, used)
}

// wantNoStaleRules: what nothing needs is no permission for later.
func wantNoStaleRules(t *testing.T, seen, used map[string]bool) {
	t.Helper()
	for pkg, r := range rules {
		if !seen[pkg] {
			t.Errorf("the rules name %s, which is not there any more: remove its line", pkg)
			continue
		}
		for kind, list := range map[string]string{"may": r.may, "tests": r.tests} {
			patterns := map[string]bool{}
			for _, pattern := range strings.Fields(list) {
				switch {
				case patterns[pattern]:
					t.Errorf("the rule of %s names %s twice (%s)", pkg, pattern, kind)
				case strings.HasPrefix(pattern, "!"):
					if !seen[pattern[1:]] {
						t.Errorf("the rule of %s names %s, which is not there any more (%s)", pkg, pattern, kind)
					}
				case !used[pkg+" "+kind+" "+pattern]:
					t.Errorf("the rule of %s allows %s, which nothing of it needs (%s): remove it", pkg, pattern, kind)
				}
				patterns[pattern] = true
			}
		}
	}
}

func TestNounsDoNothing(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg() != "." || s.test {
			continue
		}
		_, others := s.imports()
		for _, i := range others {
			if slices.Contains(rootDeny, i) || strings.Contains(i, ".") {
				t.Errorf("%s imports %s: %s", s.path, i, rules["."].why)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && text(s, sel.X) == "net" && sel.Sel.Name != "HardwareAddr" {
				t.Errorf("%s: the nouns use net.%s: of package net they have the form of a MAC only", s.line(n.Pos()), sel.Sel.Name)
			}
			return true
		})
	}
}

// TestGuestIsSmall follows what the guest agent is made of.
func TestGuestIsSmall(t *testing.T) {
	ours, others := map[string][]string{}, map[string][]string{}
	for _, s := range sources(t) {
		if !s.test {
			o, e := s.imports()
			ours[s.pkg()] = append(ours[s.pkg()], o...)
			others[s.pkg()] = append(others[s.pkg()], e...)
		}
	}
	has := make([]bool, len(guestMay))
	todo, seen := []string{"cmd/mvm-guest"}, map[string]bool{}
	for len(todo) > 0 {
		pkg := todo[0]
		todo = todo[1:]
		if seen[pkg] {
			continue
		}
		seen[pkg] = true
		todo = append(todo, ours[pkg]...)
		for _, i := range others[pkg] {
			foreign := strings.Contains(strings.Split(i, "/")[0], ".")
			for n, m := range guestMay {
				has[n] = has[n] || i == m || strings.HasPrefix(i, m+"/")
			}
			if foreign && !slices.ContainsFunc(guestMay, func(m string) bool { return i == m || strings.HasPrefix(i, m+"/") }) {
				t.Errorf("the guest agent has %s, through %s: it is in every guest and must stay small", i, pkg)
			}
		}
		if pkg != "." && pkg != "cmd/mvm-guest" && allows(inGuest, pkg) == "" {
			t.Errorf("the guest agent has %s: %s", pkg, rules["cmd/mvm-guest"].why)
		}
	}
	for n, m := range guestMay {
		if !has[n] {
			t.Errorf("guestMay allows %s, which the guest agent does not have: remove it", m)
		}
	}
}

// parts are what internal/agent is made of. Each has a state of its own, asks for others by
// interfaces, and imports none of them: so each can be read, tested and changed by itself.
var parts = []string{"aside", "builds", "declare", "deliver", "fleet", "health", "idle", "ingress", "journal", "ledger", "lifecycle", "live", "netstate", "ready", "reconcile", "recovery", "schedule", "session"}

// maxPart is how many lines the agent and each of its parts have at most, tests apart.
const maxPart = 3_500

func TestPartsOfTheAgent(t *testing.T) {
	lines := map[string]int{}
	for _, s := range sources(t) {
		if s.test || !slices.Contains(append(slices.Clone(parts), "agent"), path.Base(s.pkg())) || path.Dir(s.pkg()) != "internal" {
			continue
		}
		lines[s.pkg()] += strings.Count(s.text, "\n")
		ours, _ := s.imports()
		for _, i := range ours {
			if s.pkg() != "internal/agent" && (i == "internal/agent" || slices.Contains(parts, path.Base(i)) && path.Dir(i) == "internal") {
				t.Errorf("%s imports %s: a part of the agent asks for others by an interface of its own, which internal/agent implements", s.path, i)
			}
		}
	}
	for pkg, n := range lines {
		if n > maxPart {
			t.Errorf("%s has %d lines, more than %d: split it by what its parts own", pkg, n, maxPart)
		}
	}
	if len(lines) != len(parts)+1 {
		t.Errorf("parts names %d packages, of which %d are there", len(parts)+1, len(lines))
	}
	page, err := os.ReadFile("docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "\n### The parts of an agent\n")
	table, _, _ := strings.Cut(rest, "\n###")
	var told []string
	for line := range strings.Lines(table) {
		if rest, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ := strings.Cut(rest, "`")
			told = append(told, name)
		}
	}
	if slices.Sort(told); !slices.Equal(told, parts) {
		t.Errorf("docs/ARCHITECTURE.md has the parts %v, want %v", told, parts)
	}
}

// inFolders are the packages that work in the folders of instances.
var inFolders = []string{"internal/agent", "internal/aside", "internal/folders", "internal/ledger", "internal/lifecycle", "internal/live", "internal/recovery", "internal/session", "internal/snapshot", "internal/snapshot/sealed", "internal/snapshot/segment", "internal/guestlog", "internal/channel", "internal/driver/console", "internal/driver/firecracker", "internal/driver/qemu", "internal/driver/rundir", "internal/driver/fake"}

// byPath are functions that open, look at or change what a path names, by package.
var byPath = map[string]string{
	"os": "Open OpenFile Create CreateTemp ReadFile WriteFile Remove RemoveAll Rename Chown Lchown Chmod Chtimes Truncate Stat Lstat " +
		"Mkdir MkdirAll MkdirTemp Symlink Link ReadDir Readlink DirFS OpenRoot OpenInRoot CopyFS",
	"filepath": "Glob Walk WalkDir EvalSymlinks",
	"net":      "Dial DialTimeout DialUnix Dialer Listen ListenUnix ListenConfig",
	"sys":      "WriteFile WriteJSON CreateFile Mkdir MkdirAll SyncFile SyncDir Rename AllocatedBytes ReadGuarded",
	"unix":     "Open Openat Openat2 Unlink Unlinkat Rename Renameat Chown Fchownat Chmod Fchmodat Truncate Stat Lstat Connect Bind",
	"syscall":  "Open Unlink Rename Chown Lchown Chmod Truncate Stat Lstat Mkfifo Connect Bind",
}

// mayByPath are the exceptions, by file and function, each with its reason.
var mayByPath = map[string]string{
	"internal/folders/folders.go sys.MkdirAll":              "makes the parents of the folders, in folders of the agent",
	"internal/agent/hostmemory.go os.ReadFile":              "/proc",
	"internal/agent/agent.go net.Dialer":                    "TCP to gateways",
	"internal/driver/fake/copy.go os.MkdirTemp":             "its own folder of the moment",
	"internal/driver/fake/copy.go os.OpenRoot":              "its own folder of the moment",
	"internal/driver/fake/copy.go os.RemoveAll":             "its own folder of the moment",
	"internal/driver/fake/knobs.go os.ReadFile":             "the tester's file in the data folder",
	"internal/driver/fake/spec.go os.Stat":                  "looks whether images and folders are there, and opens nothing",
	"internal/driver/firecracker/driver.go sys.MkdirAll":    "the driver's own folder",
	"internal/driver/firecracker/exec.go os.OpenFile":       "/dev/null",
	"internal/driver/firecracker/selftest.go os.ReadFile":   "the driver's own folder: what was found out about the binary",
	"internal/driver/firecracker/selftest.go filepath.Glob": "the driver's own folder: of tests",
	"internal/driver/firecracker/selftest.go os.RemoveAll":  "the driver's own folder: of a test",
	"internal/driver/firecracker/selftest.go os.MkdirTemp":  "the driver's own folder: of a test",
	"internal/driver/firecracker/selftest.go sys.WriteJSON": "the driver's own folder: what was found out about the binary",
	"internal/driver/qemu/driver.go sys.MkdirAll":           "the driver's own folder",
	"internal/driver/qemu/host.go os.Stat":                  "/dev/kvm",
	"internal/driver/qemu/host.go unix.Stat":                "/dev/kvm",
	"internal/driver/qemu/host.go os.ReadFile":              "the driver's own folder: what was found out about the host, and a probe's console",
	"internal/driver/qemu/host.go os.MkdirTemp":             "the driver's own folder: of a probe",
	"internal/driver/qemu/host.go os.WriteFile":             "the driver's own folder: of a probe",
	"internal/driver/qemu/host.go os.Remove":                "the driver's own folder: of a probe",
	"internal/driver/qemu/host.go os.RemoveAll":             "the driver's own folder: of a probe",
	"internal/driver/qemu/host.go filepath.Glob":            "the driver's own folder: of probes",
	"internal/driver/qemu/host.go sys.WriteJSON":            "the driver's own folder: what was found out about the host",
	"internal/driver/qemu/device.go os.OpenFile":            "a file in memory",
	"internal/driver/qemu/memory.go os.Open":                "/dev/zero",
	"internal/driver/qemu/memory.go os.OpenFile":            "/dev/zero",
	"internal/driver/rundir/open.go os.OpenFile":            "files of images, which are the store's; those of the instance go through sys.Folder",
}

// TestNothingByPathInFoldersOfInstances: a VMM that was taken over may have put anything
// into an instance's folders, and root follows links. There everything goes through a
// sys.Folder, which looks before it opens and follows none.
func TestNothingByPathInFoldersOfInstances(t *testing.T) {
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || !slices.Contains(inFolders, s.pkg()) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg := text(s, sel.X)
			if !slices.Contains(strings.Fields(byPath[pkg]), sel.Sel.Name) {
				return true
			}
			key := s.path + " " + pkg + "." + sel.Sel.Name
			if used[key] = true; mayByPath[key] == "" {
				t.Errorf("%s: %s.%s goes by path: in folders that a VMM may have written to, use sys.Folder; elsewhere, add %q to mayByPath with the reason",
					s.line(n.Pos()), pkg, sel.Sel.Name, key)
			}
			return true
		})
	}
	for key := range mayByPath {
		if !used[key] {
			t.Errorf("mayByPath has %q, which is not there any more: remove it", key)
		}
	}
}

// makes are functions that make, name or replace files, by package.
var makes = map[string]string{
	"os":   "Rename Link Symlink Mkdir MkdirAll MkdirTemp CreateTemp Create WriteFile CopyFS",
	"unix": "Rename Renameat Renameat2 Link Linkat Symlink Symlinkat Mkdir Mkdirat Mknod Mknodat", "syscall": "Rename Link Symlink Mkdir Mknod",
}

// mayMake are the files of the host's program that use them, each with its reason.
var mayMake = map[string]string{
	"internal/api/listen.go":            "a socket, in the run dir",
	"internal/cli/command/autostart.go": "the log of the agent, which is turned",
	"internal/cli/tenants/desired.go":   "output, in a file that the user names",
	"internal/driver/fake/copy.go":      "a folder of the moment",
	"internal/driver/qemu/host.go":      "a probe of the host, which is removed",
	"internal/jail":                     "a root in memory, of a mount namespace that ends with its program",
	"internal/image/fakeimage":          "a folder of a build: the store makes it durable whole",
	"internal/image/boot":               "a folder of a build: parts.go makes it durable whole, by syncTree, and so does the store",
	"internal/image/builtin":            "a folder of a build: boot makes it durable whole, and so does the store",
	"internal/image/oci":                "a folder of a build, which the store makes durable, and a file without a name",
	"internal/image/nix":                "a folder of a build, which the store makes durable",
	"internal/image/nix/cage":           "a root in memory, of a mount namespace that ends with its processes",
	"internal/image/program":            "the folder of a build, which is synced before sys.Replace puts it at its place",
	"internal/image/link.go":            "in a folder of a build",
	"internal/image/build.go":           "the folder of a build",
	"internal/image/gc.go":              "what is thrown away",
	"internal/owner/owner.go":           "in /run",
	"internal/secrets/key.go":           "a link, which gives the key its name only where there is none; the content and the folder are synced there",

	"internal/driver/firecracker/selftest.go": "a test of the program, which is removed",
}

// TestWhatIsKeptIsDurable: who makes a file or folder that is kept does it with the
// functions of package sys, which sync the content and then the name. That they do is
// seen in the system calls by test/durable.
func TestWhatIsKeptIsDurable(t *testing.T) {
	elsewhere := []string{"cmd/mvm-guest", "internal/guest", "internal/sys", "internal/testenv", "internal/hostd/hostdtest", "internal/driver/drivertest", "test"}
	used := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || slices.ContainsFunc(elsewhere, func(p string) bool { return s.pkg() == p || strings.HasPrefix(s.pkg(), p+"/") }) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || !slices.Contains(strings.Fields(makes[text(s, sel.X)]), sel.Sel.Name) {
				return true
			}
			key := s.path
			if mayMake[key] == "" {
				key = s.pkg()
			}
			if used[key] = true; mayMake[key] == "" {
				t.Errorf("%s: %s.%s makes something that a crash of the host may take away: use WriteFile, CreateFile, Rename, Mkdir or MkdirAll of package sys, or say in mayMake why it need not last",
					s.line(n.Pos()), text(s, sel.X), sel.Sel.Name)
			}
			return true
		})
	}
	for key := range mayMake {
		if !used[key] {
			t.Errorf("mayMake has %q, which is not there any more: remove it", key)
		}
	}
}
