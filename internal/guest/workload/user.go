package workload

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"mvm"
)

// SecretsGID is a supplementary group of every service: when services run as
// several users, it is what lets each of them read /run/secrets.
const SecretsGID = 5252

// User is a user of the guest's system.
type User struct {
	Name   string
	UID    int
	GID    int
	Groups []int // supplementary
	Home   string
	Shell  string
}

// LookupUser finds a user by name or number in etc/passwd and etc/group below the
// root. Root is known without these files, and "" is root. A group, by name or number,
// may follow a colon: it takes the place of the user's. A number that is not in etc/passwd
// is a user too, with root's group where none is given, as in containers.
func LookupUser(etc, name string) (User, error) {
	name, group, grouped := strings.Cut(name, ":")
	gid, known := lookupGroup(etc, group)
	if grouped && !known {
		return User{}, mvm.Errorf(mvm.KindNotFound, "look up group %q: not in %s/group", Clip(group), etc)
	}
	u, err := lookupName(etc, name)
	if uid, bad := strconv.ParseUint(name, 10, 31); err != nil && bad == nil {
		u, err = User{Name: name, UID: int(uid), Home: "/"}, nil
	}
	if grouped {
		u.GID = gid
	}
	return u, err
}

func lookupGroup(etc, name string) (gid int, ok bool) {
	for _, f := range colonLines(etc+"/group", 4) {
		if gid, err := strconv.Atoi(f[2]); f[0] == name && err == nil {
			return gid, true
		}
	}
	n, err := strconv.ParseUint(name, 10, 31)
	return int(n), err == nil
}

func lookupName(etc, name string) (User, error) {
	if name == "" {
		name = "root"
	}
	for _, f := range colonLines(etc+"/passwd", 7) {
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if (f[0] == name || f[2] == name) && err1 == nil && err2 == nil {
			return User{Name: f[0], UID: uid, GID: gid, Groups: groupsOf(etc, f[0]), Home: dirOr(f[5]), Shell: f[6]}, nil
		}
	}
	if name == "root" || name == "0" {
		return User{Name: "root", Home: dirOr("/root")}, nil
	}
	return User{}, mvm.Errorf(mvm.KindNotFound, "look up user %q: not in %s/passwd", Clip(name), etc)
}

func groupsOf(etc, user string) []int {
	var gids []int
	for _, f := range colonLines(etc+"/group", 4) {
		gid, err := strconv.Atoi(f[2])
		for _, member := range strings.Split(f[3], ",") {
			if err == nil && member == user {
				gids = append(gids, gid)
			}
		}
	}
	return gids
}

// colonLines returns the lines of a file that have at least n fields. A file that
// is not there has none.
func colonLines(path string, n int) [][]string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var lines [][]string
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= n {
			lines = append(lines, f)
		}
	}
	return lines
}

// dirOr returns the folder when it is there, else "/".
func dirOr(dir string) string {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return dir
	}
	return "/"
}

func (u User) credential() *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID), Groups: []uint32{SecretsGID}}
	for _, g := range u.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

// Clip bounds text from outside before it goes into an error.
func Clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
