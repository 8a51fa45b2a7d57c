package definition

import (
	"errors"
	"fmt"
	"maps"
	"mvm/internal/strictjson"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"mvm"
)

// Bounds of service definitions: their number, and the bytes of one.
const (
	Max      = 64
	MaxBytes = 64 << 10
)

// AgentLog is the name under which the guest agent's own log is kept: no service has it.
const AgentLog = "mvm"

// MaxTellSecs bounds OnSecrets.TimeoutSecs.
const MaxTellSecs = 60

// All reads the definitions, by name, and returns the services such that each comes after
// what it names in After. It returns all that can run and, joined, an *Error for each that
// can't.
func All(files map[string][]byte) ([]Service, error) {
	var errs []error
	names := slices.Sorted(maps.Keys(files))
	if len(names) > Max {
		errs = append(errs, &Error{"", fmt.Errorf("%d definitions are more than %d", len(names), Max)})
		names = names[:Max]
	}
	var services []Service
	for _, name := range names {
		s, err := parse(name, files[name])
		if err != nil {
			errs = append(errs, &Error{name, err})
			continue
		}
		services = append(services, s)
	}
	ordered, err := order(services)
	return ordered, errors.Join(append(errs, err)...)
}

// Error says why a service of the image can't run.
type Error struct {
	Service string
	Err     error
}

// Error names the service.
func (e *Error) Error() string { return fmt.Sprintf("service %s: %v", e.Service, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func parse(name string, b []byte) (Service, error) {
	if len(b) > MaxBytes {
		return Service{}, fmt.Errorf("the definition is larger than %d bytes", MaxBytes)
	}
	var s Service
	if err := strictjson.Unmarshal(b, &s); err != nil {
		return Service{}, err
	}
	if s.Name != name {
		return Service{}, fmt.Errorf("its name is %q, the file says %q", clip(s.Name), name)
	}
	return s, s.validate()
}

func (s Service) validate() error {
	if err := mvm.ValidateName("service", s.Name); err != nil {
		return err
	}
	if s.Name == AgentLog {
		return fmt.Errorf("the name %q is the guest agent's own", AgentLog)
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		return errors.New("command is empty")
	}
	switch s.Restart {
	case "", "always", "on-failure", "never":
	default:
		return fmt.Errorf("restart %q is not always, on-failure or never", clip(s.Restart))
	}
	if _, ok := s.StopNumber(); !ok {
		return fmt.Errorf("stop_signal %q is not a signal's name without SIG, or its number", clip(s.StopSignal))
	}
	if s.StopGraceSecs < 0 || s.StopGraceSecs > 600 {
		return fmt.Errorf("stop_grace_secs %d is not in 0..600", s.StopGraceSecs)
	}
	for _, secret := range s.SecretEnv {
		if err := ValidateSecretPath(secret); err != nil {
			return err
		}
	}
	if err := s.validateHooks(); err != nil {
		return err
	}
	if s.Ready == nil {
		return nil
	}
	return s.Ready.validate()
}

// validateHooks checks by what the service is asked and told while it runs.
func (s Service) validateHooks() error {
	for what, url := range map[string]string{"busy": s.Busy, "suspend": s.Suspend} {
		if url == "" {
			continue
		}
		if err := validateURL(what, url); err != nil {
			return err
		}
	}
	if s.OnSecrets == nil {
		return nil
	}
	return s.OnSecrets.validate()
}

// count returns how many hold.
func count(those ...bool) (n int) {
	for _, is := range those {
		if is {
			n++
		}
	}
	return n
}

func (r Ready) validate() error {
	if set := count(r.HTTP != "", r.TCP != "", r.File != "", len(r.Exec) > 0); set != 1 {
		return fmt.Errorf("ready has %d of http, tcp, file and exec, want one", set)
	}
	if r.IntervalMS < 0 || r.IntervalMS > 60_000 || r.TimeoutSecs < 0 || r.TimeoutSecs > 24*3600 {
		return errors.New("ready: interval_ms is not in 0..60000 or timeout_secs not in 0..86400")
	}
	if r.TCP != "" {
		return loopback("ready: tcp", r.TCP)
	}
	if r.HTTP != "" {
		return validateURL("ready: http", r.HTTP)
	}
	return nil
}

// validateURL checks that the URL is http on a loopback address.
func validateURL(what, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" {
		return fmt.Errorf("%s %q is not an http URL", what, clip(raw))
	}
	hostport := u.Host
	if u.Port() == "" {
		hostport = net.JoinHostPort(u.Hostname(), "80")
	}
	return loopback(what, hostport)
}

func loopback(what, hostport string) error {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !addr.IsLoopback()) {
		return fmt.Errorf("%s: %q is not a loopback address", what, clip(host))
	}
	return nil
}

// order sorts services after what they need. Those in a cycle, or that need one
// that is not there, are left out, with an error each.
func order(services []Service) ([]Service, error) {
	placed := map[string]bool{}
	var out []Service
	for {
		var left []Service
		for _, s := range services {
			if !hasAll(placed, s.After) {
				left = append(left, s)
				continue
			}
			placed[s.Name] = true
			out = append(out, s)
		}
		if len(left) == len(services) {
			break
		}
		services = left
	}
	var errs []error
	for _, s := range services {
		errs = append(errs, &Error{s.Name, fmt.Errorf("needs %s, which is not there, can't run, or needs this in turn", missing(placed, s.After))})
	}
	return out, errors.Join(errs...)
}

func hasAll(placed map[string]bool, names []string) bool { return missing(placed, names) == "" }

func missing(placed map[string]bool, names []string) string {
	for _, n := range names {
		if !placed[n] {
			return n
		}
	}
	return ""
}

func (o OnSecrets) validate() error {
	if set := count(o.Signal != "", len(o.Command) > 0, o.HTTP != ""); set != 1 {
		return fmt.Errorf("on_secrets has %d of signal, command and http, want one", set)
	}
	if o.Signal != "" && !slices.Contains([]string{"HUP", "USR1", "USR2"}, o.Signal) {
		return fmt.Errorf("on_secrets: signal %q is not HUP, USR1 or USR2", clip(o.Signal))
	}
	if o.TimeoutSecs < 0 || o.TimeoutSecs > MaxTellSecs {
		return fmt.Errorf("on_secrets: timeout_secs %d is not in 0..%d", o.TimeoutSecs, MaxTellSecs)
	}
	if o.HTTP != "" {
		return validateURL("on_secrets: http", o.HTTP)
	}
	return nil
}

// ValidateSecretPath checks "<name>" or "<integration>/<KEY>".
func ValidateSecretPath(path string) error {
	parts := strings.Split(path, "/")
	if len(parts) > 2 {
		return mvm.Errorf(mvm.KindInvalid, "secret %q is not <name> or <integration>/<key>", clip(path))
	}
	for _, p := range parts {
		if err := mvm.ValidateSecretName(p); err != nil {
			return err
		}
	}
	return nil
}

// clip bounds text of a file before it goes into an error.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
