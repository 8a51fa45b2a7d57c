package filecopy

import (
	"os/user"
	"strconv"
)

// names remembers what users and groups this machine has.
type names struct{ users, groups, uids, gids map[string]string }

func newNames() *names {
	return &names{users: map[string]string{}, groups: map[string]string{}, uids: map[string]string{}, gids: map[string]string{}}
}

// most bounds what is remembered: the other side chooses what is asked.
const most = 1024

func remembered(m map[string]string, key string, ask func() string) string {
	v, ok := m[key]
	if !ok {
		v = ask()
		if len(m) < most {
			m[key] = v
		}
	}
	return v
}

// user is the name of a uid, "" where it has none.
func (n *names) user(uid string) string {
	return remembered(n.users, uid, func() string {
		if u, err := user.LookupId(uid); err == nil {
			return u.Username
		}
		return ""
	})
}

func (n *names) group(gid string) string {
	return remembered(n.groups, gid, func() string {
		if g, err := user.LookupGroupId(gid); err == nil {
			return g.Name
		}
		return ""
	})
}

// owner is who owns an entry here: by name where this machine knows it, else by number.
func (n *names) owner(h header) (uid, gid int) {
	uid, gid = h.UID, h.GID
	if id := remembered(n.uids, h.User, func() string {
		if u, err := user.Lookup(h.User); h.User != "" && err == nil {
			return u.Uid
		}
		return ""
	}); id != "" {
		uid = atoi(id, uid)
	}
	if id := remembered(n.gids, h.Group, func() string {
		if g, err := user.LookupGroup(h.Group); h.Group != "" && err == nil {
			return g.Gid
		}
		return ""
	}); id != "" {
		gid = atoi(id, gid)
	}
	return uid, gid
}

func atoi(s string, otherwise int) int {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return otherwise
}
