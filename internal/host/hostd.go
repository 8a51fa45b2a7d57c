package host

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/driver/firecracker"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/jail"
	"mvm/internal/manifest"
	"mvm/internal/network/linuxnet"
	"mvm/internal/owner"
	"mvm/internal/production"
	"mvm/internal/secrets"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// ServeHostd does what needs root for the agent of the config, until the context ends.
// VMMs outlive it. It opens nothing of the agent's.
func ServeHostd(ctx context.Context, cfg manifest.AgentConfig) (err error) {
	_ = secrets.TakeEnv() // the agent's; VMMs must not get it
	log := newLogger(os.Stderr, cfg.LogLevel, cfg.LogFormat)
	if err := sys.Undumpable(); err != nil {
		return mvm.Errorf(mvm.KindInternal, "keep memory from other processes: %w", err)
	}
	if os.Geteuid() != 0 {
		return mvm.Errorf(mvm.KindPolicy, "run hostd: it needs root, and this is user %d", os.Geteuid()).WithFix("run it as root")
	}
	uid, gid, err := lookupUser(cfg.Hostd.User)
	if err != nil {
		return err
	}
	if err := production.Bounded(cfg, ""); err != nil {
		return err
	}
	own := owner.Owner{DataDir: cfg.DataDir, Socket: cfg.Socket}
	if own.Mark, err = owner.Mark(cfg.DataDir); err != nil && !mvm.IsKind(err, mvm.KindNotFound) { // its agent makes it
		return err
	}
	networks, err := takeNetworks(own)
	if err != nil {
		return err
	}
	defer closing(&err, networks.Close)
	bounds := vmmBounds(cfg)
	users, err := owner.TakeUsers(own, bounds.FirstUID)
	if err != nil {
		return err
	}
	defer closing(&err, users.Close)
	mark := func() (string, error) { return owner.Mark(cfg.DataDir) }
	vmms, err := newSpawn(cfg, bounds, mark, log)
	if err != nil {
		return err
	}
	missing, err := vmms.Walls(ctx)
	if err != nil {
		return err
	}
	if err := production.Walled(cfg, missing); err != nil {
		return err
	}
	n, err := linuxnet.New(linuxnet.Options{Log: log, Callers: []int{uid}})
	if err != nil {
		return mvm.Errorf(mvm.KindOf(err), "open network: %w", err)
	}
	defer closing(&err, n.Close)
	s, err := hostd.NewServer(hostd.Options{UID: uid, Bounds: bounds, Mark: mark, VMMs: map[string]vmproc.Launcher{spawn.Kind: spawn.Launcher(vmms)}, Network: n, Log: log})
	if err != nil {
		return err
	}
	ln, err := api.Listen(cfg.Hostd.Socket, gid)
	if err != nil {
		return err
	}
	defer closing(&err, ln.Close)
	defer context.AfterFunc(ctx, s.Close)()
	tellReady(log)
	log.Info("hostd serves", "socket", cfg.Hostd.Socket, "user", uid)
	err = s.Serve(ln)
	s.Close()
	log.Info("hostd ends; VMMs go on")
	return err
}

// vmmBounds are what VMMs of this host may be, whoever starts them.
func vmmBounds(cfg manifest.AgentConfig) vmproc.Bounds {
	first := cfg.UIDBase
	if first == 0 {
		first = owner.FirstUser
	}
	return vmproc.Bounds{RunRoot: filepath.Join(cfg.RunDir, "i"), ProbeRoot: filepath.Join(cfg.DataDir, "qemu"),
		FirstUID: first, LastUID: first + owner.RangeUsers - 1}
}

// allUsers widens the bounds to the users of all ranges, for an agent with root's rights:
// its older instances may have users of another range than its new ones.
func allUsers(b vmproc.Bounds) vmproc.Bounds {
	b.FirstUID, b.LastUID = owner.FirstUser, owner.FirstUser+owner.Ranges*owner.RangeUsers-1
	return b
}

// newSpawn has VMMs bounded and behind all walls where the config says that the host is in production.
func newSpawn(cfg manifest.AgentConfig, bounds vmproc.Bounds, mark func() (string, error), log *slog.Logger) (*spawn.Local, error) {
	j := walls(cfg)
	return spawn.New(spawn.Options{Bounds: bounds, Bounded: j.Required, Jail: j, Mark: mark, Log: log})
}

// walls are those around the VMMs of a host with the config.
func walls(cfg manifest.AgentConfig) jail.Jail {
	j := jail.Jail{On: true, Required: cfg.Trust.Production && !cfg.Trust.WeakIsolation}
	for _, w := range cfg.Trust.JailWithout {
		j.Without = append(j.Without, jail.Wall(w))
	}
	return j
}

// lookupUser returns the numbers of a user that is given by name or number.
func lookupUser(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		if _, nerr := strconv.Atoi(name); nerr == nil {
			u, err = user.LookupId(name)
		}
	}
	var unknown user.UnknownUserIdError
	if errors.As(err, &unknown) { // a number needs no name
		u, err = &user.User{Uid: name, Gid: name}, nil
	}
	if err != nil {
		return 0, 0, mvm.Errorf(mvm.KindInvalid, "hostd_user: %w", err).WithFix("create the user as in the file sysusers.d/mvm.conf")
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil || uid == 0 || gid == 0 {
		return 0, 0, mvm.Errorf(mvm.KindInvalid, "hostd_user: %q is user %s, group %s, and may not be root", name, u.Uid, u.Gid)
	}
	return uid, gid, nil
}

// splitParts are a real host whose rights mvm hostd has.
func splitParts(o Options, own owner.Owner, st *store.Store, log *slog.Logger) (parts, error) {
	if o.Driver == firecracker.Name {
		return parts{}, mvm.Errorf(mvm.KindPolicy, "use this host: mvm hostd does not start Firecracker yet").
			WithFix("run the agent as root, without hostd_socket, or set driver = \"qemu\"")
	}
	b, err := builders(o, log)
	if err != nil {
		return parts{}, err
	}
	bounds := vmmBounds(o.AgentConfig)
	if first, used, err := st.UIDBase(); err != nil {
		return parts{}, err
	} else if used && o.UIDBase == 0 && first != bounds.FirstUID {
		return parts{}, mvm.Errorf(mvm.KindState, "use mvm hostd: the instances in this data directory use users from %d on, and hostd uses those from %d on", first, bounds.FirstUID).
			WithFix("set uid_base = %d in the config, and restart mvm-hostd", first)
	}
	if err := st.SetUIDBase(bounds.FirstUID); err != nil {
		return parts{}, err
	}
	client := hostd.NewClient(o.Hostd.Socket).For(hostd.Scope{Mark: own.Mark, RunRoot: bounds.RunRoot, ProbeRoot: bounds.ProbeRoot, FirstUID: bounds.FirstUID})
	d, err := newQEMU(o, spawn.Over(client.VMMs(spawn.Kind)), log)
	if err != nil {
		return parts{}, err
	}
	n := client.Network()
	return parts{driver: d, network: n, names: n, builders: b, close: n.Close}, nil
}

// checkOwner refuses to work on the state of another user: what this one made there
// that one could not use, and with the rights of root it would be led astray.
func checkOwner(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "look at folder: %w", err)
	}
	if owner, ok := ownerOf(st); ok && owner != os.Geteuid() {
		return mvm.Errorf(mvm.KindPolicy, "use %s: it belongs to user %d, and this is user %d", dir, owner, os.Geteuid()).
			WithFix("run the agent as the owner, with systemctl start mvm-agent, or stop everything and chown the folder to this user")
	}
	return nil
}

func ownerOf(st os.FileInfo) (int, bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(s.Uid), true
}
