// Package hostd splits a host's privileges: a Server does what needs root, and a
// Client lets an agent without any right do everything else.
//
// # What needs root
//
// Tenant networks (bridges, TAPs, nftables, and port 53 of the tenants' gateway addresses), and to start, find, measure and end VMMs
// as users of their own. That is all that is served. The agent makes folders, disks
// and sockets, opens them itself and hands them over open; it speaks with VMMs and
// guests. So the server opens no path that it is told of, and nothing that a guest
// says ever gets to it. The pages of a paused guest, which only root may read and write in
// its VMM, are copied between the VMM and a memory file of the agent's, and not looked at.
//
// # Protocol
//
// A unix stream socket, one request per connection. A frame is one byte of version,
// one byte that says what it is, four bytes of length (big-endian), and JSON; open
// files go with its first byte. The JSON is strict, its length and the number of files
// are bounded by what it is, and it has to be there within seconds. A caller that
// closes its connection gives the request up.
//
// # Trust
//
// Only the agent's user and root are answered, as the kernel names them. The agent is
// not trusted beyond that: users, names of VMMs, sizes and files are checked (by the
// launcher of the kind of VMM), networks by their contract. A hostile agent can do to its instances what it
// likes, which it can in any case, and nothing to the rest of the host.
package hostd

import (
	"syscall"
	"time"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/network"
	"mvm/internal/sys"
)

// version is that of the protocol; another one is refused.
const version = 1

// op says what a request is.
type op byte

// The requests. Numbers are never used again for another. opLaunch was a launch in the words of
// QEMU, and is refused: opStart is one of any VMM.
const (
	opHello op = iota + 1
	opApply
	opTAP
	opSweep
	opVerify
	opLaunch
	opFind
	opKill
	opExit
	opStats
	opList
	opLeave
	opScope
	opOccupied
	opSurvey
	opStart
	opChanged
	opRead
	opWrite
	opWalls
	opLimitCPU
	opResolver
	opAdmit
	opDropped

	opLast = opDropped
)

// Bounds of the protocol.
const (
	maxRequest  = 64 << 10 // bytes, but for Apply
	maxApply    = 4 << 20
	maxRuns     = 256 << 10 // a run for each page of a window
	maxAnswer   = 4 << 20
	maxFiles    = 16 // of a Launch; pages have one, other requests none
	maxBack     = 2  // of an answer: the sockets of a resolver; a TAP is one
	maxConns    = 64 // at once
	readTimeout = 5 * time.Second
	workTimeout = 60 * time.Second // for one request, however long its caller would wait
)

// limit is the largest body of the request; 0: there is no such request.
func (o op) limit() int {
	switch {
	case o == opApply:
		return maxApply
	case o == opRead, o == opWrite:
		return maxRuns
	case o >= opHello && o <= opLast:
		return maxRequest
	}
	return 0
}

// What requests and answers carry. A request without anything has none{}.
type (
	none struct{}

	hello struct {
		// Epoch is another for each process that serves.
		Epoch string `json:"epoch"`
	}
	scopeAnswer struct {
		Scope Scope `json:"scope"`
	}
	tapRequest struct {
		Tenant   string `json:"tenant"`
		Instance string `json:"instance"`
		UID      int    `json:"uid"`
	}
	resolverRequest struct {
		Tenant string `json:"tenant"`
	}
	admitRequest struct {
		Tenant   string              `json:"tenant"`
		Instance string              `json:"instance"`
		List     []network.Admission `json:"list"`
	}
	droppedRequest struct {
		Tenant   string `json:"tenant"`
		Instance string `json:"instance"`
	}
	sweepAnswer struct {
		Removed []string `json:"removed"`
	}
	occupiedAnswer struct {
		Ranges []network.Range `json:"ranges"`
	}
	verifyAnswer struct {
		Findings []network.Finding `json:"findings"`
	}
	launchRequest struct {
		vmmKind
		vmproc.Launch
	}
	// vmmKind says which launcher a request is for; "" is firstKind, the only one that an
	// older mvm had.
	vmmKind struct {
		VMM string `json:"vmm,omitempty"`
	}
	vmmRequest struct {
		vmmKind
		Name vmproc.Name `json:"name"`
		Hint vmproc.Hint `json:"hint"`
	}
	processAnswer struct {
		PID     int      `json:"pid"`
		Start   uint64   `json:"start"`
		Cgroups []string `json:"cgroups,omitempty"`
	}
	exitAnswer struct {
		Code   int  `json:"code"`
		Signal int  `json:"signal"`
		Known  bool `json:"known"`
		// Refused is the system call for which it was ended.
		Refused string `json:"refused,omitempty"`
	}
	statsAnswer struct {
		CPU       time.Duration `json:"cpu_ns"`
		RSS       int64         `json:"rss_bytes"`
		Throttled time.Duration `json:"throttled_ns,omitempty"`
	}
	cpuRequest struct {
		vmmRequest
		CPU vmproc.CPU `json:"cpu"`
	}
	// A changedRequest without pages only looks for the memory.
	changedRequest struct {
		vmmRequest
		Guest vmproc.Guest `json:"guest"`
		From  int64        `json:"from"`
		Pages int          `json:"pages"`
	}
	// A pagesRequest comes with a file of the pages, one run after the other.
	pagesRequest struct {
		vmmRequest
		Guest vmproc.Guest  `json:"guest"`
		Runs  []sys.PageRun `json:"runs"`
	}
	changedAnswer struct {
		Shared bool          `json:"shared,omitempty"`
		Runs   []sys.PageRun `json:"runs,omitempty"`
		Next   int64         `json:"next"`
	}
	wallsAnswer struct {
		Missing []mvm.Finding `json:"missing,omitempty"`
	}
	surveyRequest struct {
		vmmKind
	}
	listRequest struct {
		vmmKind
		Root string `json:"root"`
	}
	listAnswer struct {
		Names []vmproc.Name `json:"names"`
	}
	leaveRequest struct {
		vmmKind
		Name   vmproc.Name `json:"name"`
		Cgroup string      `json:"cgroup"`
	}
	failure struct {
		Kind mvm.Kind `json:"kind"`
		Text string   `json:"text"`
		Fix  string   `json:"fix,omitempty"`
		// Gone: there is no such process.
		Gone bool `json:"gone,omitempty"`
		// Errno is what the host lacks, as sys.Fault finds it; 0: nothing that is known.
		Errno syscall.Errno `json:"errno,omitempty"`
		// Unmapped: the VMM does not map the file.
		Unmapped bool `json:"unmapped,omitempty"`
	}
)
