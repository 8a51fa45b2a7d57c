package owner

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"mvm"
)

// Networks is what there is of tenant networks in this network namespace.
type Networks struct {
	Bridges, TAPs []string
}

// networkFile is the file of the network namespace that this thread is in.
func networkFile() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "look at the network namespace: %w", err)
	}
	return fmt.Sprintf("networks-%d", st.Ino), nil
}

// TakeNetworks holds the tenant networks of this network namespace: their interfaces
// and rules have the same names for every agent. What another owner has left is taken
// when nothing of it is there, or when its data dir is gone and no VMM uses it. look
// says what there is.
func TakeNetworks(o Owner, look func() (Networks, error)) (*Hold, error) {
	name, err := networkFile()
	if err != nil {
		return nil, err
	}
	path, err := inLockDir(name)
	if err != nil {
		return nil, err
	}
	h, err := take(what{name: "the tenant networks of this network namespace", path: path, wait: patience,
		free: func(of Owner) error { return unused(of, look) },
		fix:  "use that agent, or stop it and destroy its tenants, or run this one in a network namespace of its own"}, o)
	var e *mvm.Error
	if of, rerr := Read(path); errors.As(err, &e) && rerr == nil && of.Socket != "" && !of.same(o) {
		return nil, e.WithFix("use that agent (--socket %s), or stop it and destroy its tenants, or run this agent in its own network namespace", of.Socket)
	}
	return h, err
}

// unused says why the networks of an owner that does not run can't be taken.
func unused(of Owner, look func() (Networks, error)) error {
	if of.none() {
		return nil
	}
	n, err := look()
	switch {
	case err != nil:
		return err
	case len(n.TAPs) > 0:
		return fmt.Errorf("VMMs use its interfaces, such as %s", n.TAPs[0])
	case len(n.Bridges) > 0 && !of.Gone():
		return fmt.Errorf("its interfaces are there, such as %s", n.Bridges[0])
	}
	return nil
}

// NetworksOf returns the owner of the tenant networks of this network namespace, the
// zero Owner for none.
func NetworksOf() (Owner, error) {
	name, err := networkFile()
	if err != nil {
		return Owner{}, err
	}
	return Read(LockDir + "/" + name)
}
