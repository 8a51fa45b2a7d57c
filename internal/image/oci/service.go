package oci

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"mvm/internal/guest/definition"
)

// serviceName is the name of an image's one service.
const serviceName = "app"

// service is what the image's configuration runs.
func service(c v1.Config) (s definition.Service, err error) {
	s = definition.Service{
		Name: serviceName, Command: slices.Concat(c.Entrypoint, c.Cmd), User: c.User, Dir: c.WorkingDir,
		Env: environment(c.Env), StopSignal: stopSignal(c.StopSignal),
	}
	if s.Dir == "" {
		s.Dir = "/"
	}
	s.Ready, err = ready(c)
	return s, err
}

// definitionOf is the text of service, or why there is none.
func definitionOf(c v1.Config) (text []byte, none string, err error) {
	s, err := service(c)
	if err != nil {
		return nil, "", err
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		return nil, "its configuration has neither an entrypoint nor a command", nil
	}
	if text, err = json.Marshal(s); err != nil {
		return nil, "", err
	}
	if _, err := definition.All(map[string][]byte{serviceName: text}); err != nil {
		return nil, "", invalid("its configuration can't be run: %w", err)
	}
	return text, "", nil
}

func environment(all []string) map[string]string {
	env := map[string]string{}
	for _, e := range all {
		if name, value, ok := strings.Cut(e, "="); ok && name != "" {
			env[name] = value
		}
	}
	return env
}

// stopSignal is the name without SIG, or the number.
func stopSignal(s string) string { return strings.TrimPrefix(strings.ToUpper(s), "SIG") }

// ready is how the service is found to be so: by the image's health check, else when it
// accepts connections on the only TCP port that the image exposes, else once it runs.
func ready(c v1.Config) (*definition.Ready, error) {
	if h := c.Healthcheck; h != nil && len(h.Test) > 1 {
		r := &definition.Ready{IntervalMS: int(min(max(h.Interval, time.Second), time.Minute) / time.Millisecond)}
		switch h.Test[0] {
		case "CMD":
			r.Exec = h.Test[1:]
		case "CMD-SHELL":
			r.Exec = append([]string{"/bin/sh", "-c"}, h.Test[1:]...)
		default:
			return nil, invalid("its health check is of the unknown kind %.40q", h.Test[0])
		}
		return r, nil
	}
	ports := exposed(c)
	if len(ports) != 1 {
		return nil, nil
	}
	return &definition.Ready{TCP: fmt.Sprintf("127.0.0.1:%d", ports[0])}, nil
}

// maxExposed bounds the ports that are taken from an image's configuration.
const maxExposed = 256

// exposed are the TCP ports that the image exposes, in order.
func exposed(c v1.Config) []int {
	var ports []int
	for p := range c.ExposedPorts {
		number, kind, _ := strings.Cut(p, "/")
		n, err := strconv.Atoi(number)
		if (kind == "" || kind == "tcp") && err == nil && n > 0 && n < 65536 {
			ports = append(ports, n)
		}
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	return ports[:min(len(ports), maxExposed)]
}
