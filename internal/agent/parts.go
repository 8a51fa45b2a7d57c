package agent

import (
	"path/filepath"

	"mvm/internal/aside"
	"mvm/internal/builds"
	"mvm/internal/declare"
	"mvm/internal/deliver"
	"mvm/internal/driver/atrest"
	"mvm/internal/fleet"
	"mvm/internal/folders"
	"mvm/internal/health"
	"mvm/internal/idle"
	"mvm/internal/ingress"
	"mvm/internal/journal"
	"mvm/internal/ledger"
	"mvm/internal/lifecycle"
	"mvm/internal/live"
	"mvm/internal/netstate"
	"mvm/internal/ready"
	"mvm/internal/reconcile"
	"mvm/internal/recovery"
	"mvm/internal/schedule"
	"mvm/internal/session"
	"mvm/internal/snapshot"
	"mvm/internal/tenantkey"
)

// join makes the parts. One that is made later is behind a type of this package, which asks
// for it when it is called.
func (a *Agent) join() {
	opt := a.opt
	a.folders = folders.New(opt.DataDir, opt.RunDir, opt.Log, &snapshot.Shared{Key: a.tenantKey, Segments: atrest.Segments{}})
	a.journal = journal.New(journal.Options{Store: opt.Store, Log: opt.Log, Retention: opt.AuditRetention})
	a.live = live.New(a.ctx, live.Options{Driver: opt.Driver, Networks: opt.Network, NamedTAPs: opt.NamedTAPs, Images: opt.Images, Ingress: followed{a}, Watcher: followed{a}, Folders: a.folders,
		Limits: limited{a}.Of, Log: opt.Log, Call: opt.Timeouts.Call, KeepLogs: opt.KeepLogs})
	a.health = health.New(health.Options{Guests: watched{guests{a}}, Idle: watched{guests{a}}, Reconcile: watched{guests{a}}, Store: opt.Store, Log: opt.Log, Metrics: opt.Metrics, Call: opt.Timeouts.Call})
	a.aside = aside.New(aside.Options{Store: opt.Store, Host: asideOf{a}, Folders: a.folders, Limits: opt.SetAside, Log: opt.Log})
	a.ledger = ledger.New(ledger.Options{DataDir: opt.DataDir, Store: opt.Store, Images: kept{a}, Instances: kept{a}, Folders: a.folders, Log: opt.Log})
	a.ready = ready.New(ready.Options{Limits: opt.Ready, Files: a.snapshotOf, Make: atrest.MakeReady, Memory: opt.HostMemory, Metrics: opt.Metrics, Log: opt.Log})
	a.networks = netstate.New(opt.Network, opt.Store, a.newResolver())
	a.deliver = deliver.New(deliver.Options{Store: opt.Store, Guests: guests{a}, Secrets: guests{a}, Log: opt.Log, Resolvers: opt.Resolvers, Answers: a.resolver != nil, Call: opt.Timeouts.Call})
	a.ingress = ingress.New(a.ctx, ingress.Options{Instances: reached{guests{a}}, Queue: reached{guests{a}}, Fleet: reached{guests{a}}, Deliver: a.deliver,
		Store: opt.Store, Journal: a.journal, Metrics: opt.Metrics, Publisher: opt.Publisher, Log: opt.Log, Call: opt.Timeouts.Call,
		DialGuest: opt.DialGuest, Recovered: a.recovered})
	a.session = session.New(a.ctx, session.Options{Guests: looked{guests{a}}, Journal: a.journal, Console: folders.Console, Call: opt.Timeouts.Call})
	a.idle = idle.New(idle.Options{Instances: resting{guests{a}}, Queue: resting{guests{a}}, Store: opt.Store, Journal: a.journal, Metrics: opt.Metrics,
		Log: opt.Log, Call: opt.Timeouts.Call, Memory: a.memoryForGuests, Limits: opt.MemoryLimits})
	a.reconciler = reconcile.New(a.ctx, reconcile.Options{Instances: reconciled{a}, Images: reconciled{a}, Queue: reconciled{a}, Store: opt.Store, Journal: a.journal,
		Metrics: opt.Metrics, Log: opt.Log, Every: opt.Reconcile, Parallel: opt.Parallel, Rand: opt.Rand, Seam: opt.Seam})
	a.builds = builds.New(a.ctx, builds.Options{Dir: filepath.Join(opt.DataDir, "builds"), Images: opt.Images, Pools: pools{a}, Journal: a.journal, Metrics: opt.Metrics,
		Log: opt.Log, Rand: opt.Rand, Limits: opt.Builds})
	a.fleet = fleet.New(fleet.Options{Store: opt.Store, Journal: a.journal, Networks: networks{a.networks, opt.Network}, Images: images{opt.Images, a}, Builds: a.builds,
		Queue: commanded{a}, Reconcile: a.reconciler, Ports: a.ingress, Limits: limited{a}, Deliver: a.deliver, Watch: watched{guests{a}}, Sealer: opt.Sealer, Sleepers: sleepers{a}, Log: opt.Log, Rand: opt.Rand})
	a.schedule = schedule.New(schedule.Options{Queue: reached{guests{a}}, Snapshots: reached{guests{a}}, Clock: opt.Clock, Store: opt.Store, Journal: a.journal, Metrics: opt.Metrics, Log: opt.Log})
	a.lifecycle = lifecycle.New(a.ctx, lifecycle.Options{Store: opt.Store, Journal: a.journal, Metrics: opt.Metrics, Driver: readied{opt.Driver, a.ready}, VMMs: vmms{a.live, a}, Guests: a.live,
		Networks: a.networks, Ingress: fenced{a.ingress}, Deliver: woken{a.deliver, a}, Health: a.health, Logs: a.session, Quota: a.fleet, IDs: a.fleet, Aside: a.aside,
		Reconcile: a.reconciler, Idle: a.idle, Schedule: a.schedule, Folders: a.folders, Log: opt.Log, Timeouts: opt.Timeouts, Now: opt.Clock.Now, KeepAside: opt.SetAside.Keep, MakeDisk: opt.MakeDisk, Seam: opt.Seam})
	a.recovery = recovery.New(recovery.Options{Store: opt.Store, VMMs: a.live, Networks: networks{a.networks, opt.Network}, Ports: a.ingress, Deliver: a.deliver,
		Queue: a.lifecycle, Schedule: a.schedule, Folders: a.folders, Log: opt.Log, Seam: opt.Seam, Recovered: a.recovered})
	a.declare = declare.New(declare.Options{Records: records{a.fleet}, Reconcile: a.reconciler, Deliver: a.deliver, Store: opt.Store, Journal: a.journal,
		Log: opt.Log, NodeID: a.nodeID, File: opt.DesiredFile, Trust: opt.Trust, Seam: opt.Seam})
}

// tenantKey is the key with which a tenant's snapshots are sealed.
func (a *Agent) tenantKey(tenant string) (*tenantkey.Key, error) { return a.fleet.Key(tenant) }
