package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"mvm"
)

// Bounds of service definitions.
const (
	maxServices     = 64
	maxServiceBytes = 64 << 10
)

// LoadServices reads every *.json of the folder, which need not be there, and
// returns the services such that each comes after what it names in After. It
// returns all that can run and, joined, an error for each that can't; those are
// *ServiceError.
func LoadServices(dir string) ([]Service, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "list services in %s: %w", dir, err)
	}
	var errs []error
	if len(files) > maxServices {
		errs = append(errs, &ServiceError{"", fmt.Errorf("%d definitions are more than %d", len(files), maxServices)})
		files = files[:maxServices]
	}
	var services []Service
	for _, file := range files {
		s, err := loadService(file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		services = append(services, s)
	}
	ordered, err := order(services)
	return ordered, errors.Join(append(errs, err)...)
}

// ServiceError says why a service of the image can't run.
type ServiceError struct {
	Service string
	Err     error
}

// Error names the service.
func (e *ServiceError) Error() string { return fmt.Sprintf("service %s: %v", e.Service, e.Err) }

// Unwrap returns the cause.
func (e *ServiceError) Unwrap() error { return e.Err }

func loadService(file string) (Service, error) {
	name := strings.TrimSuffix(filepath.Base(file), ".json")
	s, err := parseService(name, file)
	if err != nil {
		return Service{}, &ServiceError{name, err}
	}
	return s, nil
}

func parseService(name, file string) (Service, error) {
	f, err := os.Open(file)
	if err != nil {
		return Service{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxServiceBytes+1))
	if err != nil {
		return Service{}, err
	}
	if len(b) > maxServiceBytes {
		return Service{}, fmt.Errorf("the definition is larger than %d bytes", maxServiceBytes)
	}
	var s Service
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Service{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Service{}, errors.New("there is more after the definition")
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
	if s.Name == agentLog {
		return fmt.Errorf("the name %q is the guest agent's own", agentLog)
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		return errors.New("command is empty")
	}
	switch s.Restart {
	case "", "always", "on-failure", "never":
	default:
		return fmt.Errorf("restart %q is not always, on-failure or never", clip(s.Restart))
	}
	if s.StopGraceSecs < 0 || s.StopGraceSecs > 600 {
		return fmt.Errorf("stop_grace_secs %d is not in 0..600", s.StopGraceSecs)
	}
	for _, secret := range s.SecretEnv {
		if err := validateSecretPath(secret); err != nil {
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
		errs = append(errs, &ServiceError{s.Name, fmt.Errorf("needs %s, which is not there, can't run, or needs this in turn", missing(placed, s.After))})
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

// exists reports whether there is something at the path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
