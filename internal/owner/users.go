package owner

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"

	"mvm"
)

// Ranges of users for VMMs. An owner has one; the first is that of an agent with the
// default data dir, and of mvm hostd unless its config says another.
const (
	FirstUser  = 0x70000000
	RangeUsers = 1 << 16
	Ranges     = 4096
)

// TakeUsers holds the range that begins with the user, which no VMM of another owner
// runs as then.
func TakeUsers(o Owner, first int) (*Hold, error) {
	if n := first - FirstUser; n < 0 || n%RangeUsers != 0 || n/RangeUsers >= Ranges {
		return nil, mvm.Errorf(mvm.KindInvalid, "use the users from %d on: a range begins at %d or a multiple of %d above, below %d", first, FirstUser, RangeUsers, FirstUser+Ranges*RangeUsers)
	}
	path, err := inLockDir(fmt.Sprintf("users-%x", first))
	if err != nil {
		return nil, err
	}
	return take(what{name: fmt.Sprintf("the users %d to %d for VMMs", first, first+RangeUsers-1), path: path, wait: patience,
		free: func(of Owner) error { return without(of, first) },
		fix:  "give this one another range: uid_base = " + strconv.Itoa(AnyUsers())}, o)
}

// AnyUsers is the first user of a range by chance, that is not the first range.
func AnyUsers() int { return FirstUser + (1+rand.IntN(Ranges-1))*RangeUsers }

// without says why the range of an owner that does not run can't be taken: its data
// has files of these users, or its VMMs run.
func without(of Owner, first int) error {
	if of.none() {
		return nil
	}
	if !of.Gone() {
		return errors.New("that data dir is there")
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // it has ended
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) >= first && int(st.Uid) < first+RangeUsers {
			return fmt.Errorf("process %s is of one of them", e.Name())
		}
	}
	return nil
}
