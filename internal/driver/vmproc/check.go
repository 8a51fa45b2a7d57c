package vmproc

import (
	"path/filepath"
	"regexp"
	"strings"

	"mvm"
)

// Bounds of a name.
const (
	MaxRunDir = 90 // bytes; leaves room for a socket's name within 107
	maxID     = 32 // bytes
)

func bad(format string, args ...any) error {
	return mvm.Errorf(mvm.KindInvalid, "check the VMM's name: "+format, args...)
}

var (
	idRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	// instanceRE is the id of an instance, probeRE the folder of a probe of the host.
	instanceRE = regexp.MustCompile(`^i-[0-9a-f]{8}$`)
	probeRE    = regexp.MustCompile(`^probe[0-9]+$`)
)

// Check refuses a name that can't be told from another, or not be in an argument.
func (n Name) Check() error {
	switch {
	case len(n.ID) > maxID || !idRE.MatchString(n.ID):
		return bad("id %.80q", n.ID)
	case !filepath.IsAbs(n.RunDir) || filepath.Clean(n.RunDir) != n.RunDir || strings.ContainsAny(n.RunDir, ",\n\x00"):
		return bad("run dir %.200q is not a clean absolute path without commas", n.RunDir)
	case len(n.RunDir) > MaxRunDir:
		return bad("run dir %.200q is longer than %d bytes", n.RunDir, MaxRunDir)
	}
	return nil
}

// Cgroup is what the cgroup of the VMM is called, but for the mark.
func (n Name) Cgroup() string { return cgroupPrefix + n.ID }

const cgroupPrefix = "mvm-"

// isCgroupName reports whether a VMM's cgroup has the name, whoever's.
func isCgroupName(name string) bool {
	rest, ok := strings.CutPrefix(name, cgroupPrefix)
	return ok && (rest == ProbeID || strings.HasPrefix(rest, ProbeID+"-") || len(rest) >= idLen && instanceRE.MatchString(rest[:idLen]))
}

// idOfCgroup is whose the cgroup is that isCgroupName knows.
func idOfCgroup(name string) string {
	rest := strings.TrimPrefix(name, cgroupPrefix)
	if len(rest) >= idLen && instanceRE.MatchString(rest[:idLen]) {
		return rest[:idLen]
	}
	return ProbeID
}

// idLen is the length of an instance's id.
const idLen = len("i-00000000")

// markedCgroup is the name of the VMM's cgroup, which no VMM of another owner has.
func markedCgroup(n Name, mark string) string {
	if mark != "" {
		mark = "-" + mark
	}
	return n.Cgroup() + mark
}

// Bounds are what a Host takes on, beside what every VMM has to be. The zero value
// bounds nothing: it is for tests.
type Bounds struct {
	// RunRoot is the parent of the RunDirs of instances, which are named by id.
	RunRoot string
	// ProbeRoot is the parent of the RunDirs of probes of the host.
	ProbeRoot string
	// FirstUID and LastUID bound the users of instances.
	FirstUID, LastUID int
}

// What a probe is called, and the user that it runs as.
const (
	ProbeID  = "probe"
	ProbeUID = 65534
)

// Complete reports whether the bounds bound everything.
func (b Bounds) Complete() bool {
	return b.RunRoot != "" && b.ProbeRoot != "" && b.FirstUID > 0 && b.LastUID >= b.FirstUID
}

// name refuses what is none of the host's VMMs.
func (b Bounds) name(n Name) error {
	if err := n.Check(); err != nil || b == (Bounds{}) {
		return err
	}
	dir, base := filepath.Split(n.RunDir)
	switch {
	case instanceRE.MatchString(n.ID) && n.RunDir == filepath.Join(b.RunRoot, n.ID):
		return nil
	case n.ID == ProbeID && filepath.Clean(dir) == b.ProbeRoot && probeRE.MatchString(base):
		return nil
	}
	return mvm.Errorf(mvm.KindPolicy, "check the VMM's name: %s in %s is not an instance of this host", n.ID, n.RunDir)
}

// Check refuses to start what is none of the host's VMMs, or as a user that is not one of
// the instances'.
func (b Bounds) Check(n Name, uid, gid int) error {
	if err := b.name(n); err != nil || b == (Bounds{}) {
		return err
	}
	own := uid >= b.FirstUID && uid <= b.LastUID
	if n.ID == ProbeID {
		own = uid == ProbeUID
	}
	if !own || gid != uid {
		return mvm.Errorf(mvm.KindPolicy, "check the VMM's user: %d, group %d, is not one of those for instances, %d to %d", uid, gid, b.FirstUID, b.LastUID)
	}
	return nil
}

// user reports whether the user can be that of the name's VMM. want is the instance's,
// 0 where that is not known.
func (b Bounds) user(uid int, n Name, want int) bool {
	switch {
	case uid == 0, want != 0 && uid != want:
		return false
	case b == (Bounds{}):
		return true
	case n.ID == ProbeID:
		return uid == ProbeUID
	}
	return uid >= b.FirstUID && uid <= b.LastUID
}

// anyUser reports whether the user can be that of any VMM.
func (b Bounds) anyUser(uid int) bool {
	return uid != 0 && (b == (Bounds{}) || uid == ProbeUID || uid >= b.FirstUID && uid <= b.LastUID)
}

// holds reports whether the folder is a parent of RunDirs.
func (b Bounds) holds(dir string) bool {
	return b == (Bounds{}) || dir == b.RunRoot || dir == b.ProbeRoot
}
