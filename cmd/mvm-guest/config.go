package main

import (
	"flag"
	"io"
	"strings"

	"mvm/internal/guest"
)

// config is what the flags decide.
type config struct {
	port     string // device of the virtio-serial port, "" for none
	vsock    bool
	powerOff []string
	paths    guest.Paths
}

func defaultConfig() config {
	return config{vsock: true, paths: guest.DefaultPaths()}
}

// parseConfig reads the flags of a service.
func parseConfig(args []string, out io.Writer) (config, error) {
	cfg := defaultConfig()
	var powerOff string
	fs := flag.NewFlagSet("mvm-guest", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&cfg.port, "port", "", "device of the virtio-serial port (default: the one named mvm.0)")
	fs.BoolVar(&cfg.vsock, "vsock", true, "listen on vsock port 52 where there is no virtio-serial port")
	fs.StringVar(&powerOff, "poweroff", "systemctl poweroff", "program and arguments, split at spaces, that power the machine off")
	fs.StringVar(&cfg.paths.Services, "services", cfg.paths.Services, "folder of service definitions")
	fs.StringVar(&cfg.paths.Secrets, "secrets", cfg.paths.Secrets, "folder to make for secrets, on a tmpfs")
	fs.StringVar(&cfg.paths.Config, "config", cfg.paths.Config, "folder for config.json and routes.json")
	fs.StringVar(&cfg.paths.Run, "run", cfg.paths.Run, "folder of the worker's flags")
	fs.StringVar(&cfg.paths.Data, "data", cfg.paths.Data, "folder of durable data")
	if err := fs.Parse(args); err != nil {
		return config{}, err
	}
	cfg.powerOff = strings.Fields(powerOff)
	return cfg, nil
}
