package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/build"
)

// wicked is what a guest or a tenant may put into any text: a title and a colour for the
// terminal, C0 and C1 controls, DEL, bidirectional overrides, isolates and marks,
// zero-width characters, separators, a tag, bytes that are no UTF-8, and a line that looks
// like one of mvm.
const wicked = "EVIL\x1b]0;owned\x07\x1b[35m\x1b[2J\u009b31m\u0085\x00\x08\x7f\u202e\u2066\u2069\u200e\u061c\u200b\u200d\u2060\ufeff\u00ad" +
	"\u2028\u2029\U000e0041\u3164\xff\xc3\t\r\nmvm: FORGED\r\n  fix: FORGED"

// wickedService answers everything with wicked in each of its strings.
type wickedService struct {
	yes  bool // the value of each bool
	fail bool // each answer is an error
}

var _ api.Service = wickedService{}

// times are those of the answers.
var times = now.Add(-3 * time.Minute)

// fill sets all that v holds: strings to wicked, numbers to 3, and one or two elements
// to slices and maps.
func (s wickedService) fill(v reflect.Value, depth int) {
	if depth > 12 {
		return
	}
	switch known := v.Addr().Interface().(type) {
	case *time.Time:
		*known = times
		return
	case *netip.Addr:
		*known = netip.MustParseAddr("10.240.3.4")
		return
	case *netip.AddrPort:
		*known = netip.MustParseAddrPort("127.0.0.1:8080")
		return
	case *netip.Prefix:
		*known = netip.MustParsePrefix("10.240.3.0/24")
		return
	case *json.RawMessage:
		*known, _ = json.Marshal(map[string]string{wicked: wicked})
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(wicked)
	case reflect.Bool:
		v.SetBool(s.yes)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(3)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(3)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(3)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		s.fill(v.Elem(), depth+1)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(wicked))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			s.fill(v.Index(i), depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			s.fill(v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		s.fill(k, depth+1)
		s.fill(e, depth+1)
		v.SetMapIndex(k, e)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				s.fill(v.Field(i), depth+1)
			}
		}
	}
}

// some returns a filled value.
func some[T any](s wickedService) (v T, err error) {
	if s.fail {
		return v, s.err()
	}
	s.fill(reflect.ValueOf(&v).Elem(), 0)
	return v, nil
}

func (wickedService) err() error {
	return mvm.Errorf(mvm.KindState, "guest refuses: %s", wicked).WithFix("%s", wicked)
}

func (s wickedService) tell(progress func(mvm.Progress)) {
	if progress != nil {
		p, _ := some[mvm.Progress](wickedService{})
		progress(p)
		p.Total, p.Done = 0, 0
		progress(p)
	}
}

func (s wickedService) CreateTenant(context.Context, mvm.TenantSpec) (mvm.Tenant, error) {
	return some[mvm.Tenant](s)
}
func (s wickedService) UpdateTenant(context.Context, string, mvm.TenantUpdate) (mvm.Tenant, error) {
	return some[mvm.Tenant](s)
}
func (s wickedService) Tenants(context.Context) ([]mvm.Tenant, error) { return some[[]mvm.Tenant](s) }
func (s wickedService) Tenant(context.Context, string) (mvm.Tenant, mvm.Usage, error) {
	u, _ := some[mvm.Usage](wickedService{})
	t, err := some[mvm.Tenant](s)
	return t, u, err
}
func (s wickedService) DestroyTenant(_ context.Context, _ string, progress func(mvm.Progress)) error {
	s.tell(progress)
	_, err := some[int](s)
	return err
}
func (s wickedService) SetSecrets(context.Context, string, map[string][]byte) (int, error) {
	return some[int](s)
}
func (s wickedService) RotateKey(context.Context, string) error {
	_, err := some[int](s)
	return err
}
func (s wickedService) RotateSecrets(context.Context, string) (int, error) { return some[int](s) }
func (s wickedService) CreatePool(context.Context, string, mvm.PoolSpec) (mvm.Pool, error) {
	return some[mvm.Pool](s)
}
func (s wickedService) UpdatePool(context.Context, string, string, mvm.PoolUpdate) (mvm.Pool, error) {
	return some[mvm.Pool](s)
}
func (s wickedService) Pools(context.Context, string) ([]mvm.Pool, error) { return some[[]mvm.Pool](s) }
func (s wickedService) Pool(context.Context, string, string) (mvm.Pool, error) {
	return some[mvm.Pool](s)
}
func (s wickedService) BuildPool(_ context.Context, _, _ string, progress func(mvm.Progress)) (mvm.Build, error) {
	s.tell(progress)
	return some[mvm.Build](s)
}
func (s wickedService) RollbackPool(context.Context, string, string, string) (mvm.Build, error) {
	return some[mvm.Build](s)
}
func (s wickedService) GCPool(context.Context, string, string) ([]mvm.Build, error) {
	return some[[]mvm.Build](s)
}
func (s wickedService) DestroyPool(_ context.Context, _, _ string, progress func(mvm.Progress)) error {
	s.tell(progress)
	_, err := some[int](s)
	return err
}
func (s wickedService) CreateInstance(context.Context, string, string, string) (mvm.Instance, error) {
	return some[mvm.Instance](s)
}
func (s wickedService) Instances(context.Context, mvm.Address) ([]mvm.Instance, error) {
	return some[[]mvm.Instance](s)
}
func (s wickedService) Instance(context.Context, mvm.Address) (mvm.Instance, error) {
	return some[mvm.Instance](s)
}
func (s wickedService) Snapshots(context.Context, mvm.Address) ([]mvm.AsideSnapshot, error) {
	return some[[]mvm.AsideSnapshot](s)
}
func (s wickedService) RestoreSnapshot(context.Context, mvm.Address, string) (mvm.Instance, error) {
	return some[mvm.Instance](s)
}
func (s wickedService) RemoveSnapshot(context.Context, mvm.Address, string) error {
	_, err := some[int](s)
	return err
}
func (s wickedService) Messages(context.Context, string) ([]mvm.Message, error) {
	return some[[]mvm.Message](s)
}
func (s wickedService) Message(context.Context, string, string, int64) (mvm.Message, error) {
	return some[mvm.Message](s)
}
func (s wickedService) RetryMessage(context.Context, string, string, int64) error {
	_, err := some[bool](s)
	return err
}
func (s wickedService) DropMessage(context.Context, string, string, int64) error {
	_, err := some[bool](s)
	return err
}
func (s wickedService) Why(context.Context, mvm.Address) (mvm.Story, error) {
	return some[mvm.Story](s)
}
func (s wickedService) Operate(_ context.Context, _ mvm.Address, _ mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error) {
	s.tell(progress)
	return some[mvm.Instance](s)
}
func (s wickedService) Exec(_ context.Context, _ mvm.Address, _ mvm.ExecSpec, io mvm.ExecIO) (int, error) {
	for _, b := range []byte(wicked + "\x1b[3") { // in pieces
		if _, err := io.Stdout.Write([]byte{b}); err != nil {
			return 0, err
		}
	}
	_, err := io.Stderr.Write([]byte(wicked))
	if s.fail {
		err = errors.Join(err, s.err())
	}
	return 0, err
}
func (s wickedService) Copy(_ context.Context, _ mvm.Address, _ mvm.CopySpec, io mvm.ExecIO) (int, error) {
	_, err := io.Stderr.Write([]byte(wicked))
	if s.fail {
		err = errors.Join(err, s.err())
	}
	return 1, err
}
func (s wickedService) Logs(_ context.Context, _ mvm.Address, _ mvm.LogsSpec, line func(mvm.LogLine) error) error {
	l, _ := some[mvm.LogLine](wickedService{})
	err := line(l)
	if s.fail {
		err = errors.Join(err, s.err())
	}
	return err
}
func (s wickedService) StartBuild(context.Context, string, string) (build.Run, error) {
	return some[build.Run](s)
}
func (s wickedService) Builds(context.Context, string) ([]build.Run, error) {
	return some[[]build.Run](s)
}
func (s wickedService) BuildRun(context.Context, string) (build.Run, error) {
	return some[build.Run](s)
}
func (s wickedService) CancelBuild(context.Context, string) (build.Run, error) {
	return some[build.Run](s)
}
func (s wickedService) BuildLogs(ctx context.Context, _ string, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	return s.Logs(ctx, mvm.Address{}, spec, line)
}
func (s wickedService) Stats(context.Context, mvm.Address) (mvm.InstanceStats, error) {
	return some[mvm.InstanceStats](s)
}
func (s wickedService) Usage(context.Context, mvm.Address) ([]mvm.InstanceUsage, error) {
	return some[[]mvm.InstanceUsage](s)
}
func (s wickedService) Apply(_ context.Context, _ mvm.Deployment, _ mvm.ApplyOptions, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	s.tell(progress)
	return some[[]mvm.PlanStep](s)
}
func (s wickedService) Reconcile(_ context.Context, _ mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	s.tell(progress)
	return some[[]mvm.PlanStep](s)
}
func (s wickedService) Desired(context.Context) (json.RawMessage, error) {
	return some[json.RawMessage](s)
}
func (s wickedService) Events(_ context.Context, _ mvm.EventFilter, each func(mvm.Event) error) error {
	e, _ := some[mvm.Event](wickedService{})
	err := each(e)
	if s.fail {
		err = errors.Join(err, s.err())
	}
	return err
}
func (s wickedService) VerifyEvents(context.Context, string) (mvm.AuditReport, error) {
	return some[mvm.AuditReport](s)
}
func (s wickedService) NodeInfo(context.Context) (mvm.NodeInfo, error) { return some[mvm.NodeInfo](s) }
func (s wickedService) NodeStats(context.Context) (mvm.NodeStats, error) {
	return some[mvm.NodeStats](s)
}
func (s wickedService) NodeDisk(context.Context) (mvm.NodeDisk, error) { return some[mvm.NodeDisk](s) }
func (s wickedService) NodeCheck(_ context.Context, _ mvm.NodeCheck, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	s.tell(progress)
	return some[[]mvm.Finding](s)
}
func (s wickedService) NodeGC(context.Context) (int64, error) { return some[int64](s) }
func (s wickedService) NetVerify(_ context.Context, _ bool, progress func(mvm.Progress)) ([]mvm.Finding, error) {
	s.tell(progress)
	return some[[]mvm.Finding](s)
}
func (s wickedService) Doctor(context.Context) ([]mvm.Finding, error) { return some[[]mvm.Finding](s) }
func (s wickedService) DoctorTenant(context.Context, string) ([]mvm.Finding, error) {
	return some[[]mvm.Finding](s)
}
