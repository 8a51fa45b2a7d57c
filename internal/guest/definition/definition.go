// Package definition is what an image says of its services: the guest reads it when it
// boots, and the host when the image is built.
package definition

// Dir holds an image's service definitions, one JSON file each.
const Dir = "/etc/mvm/services"

// StageDir is the folder of an initrd in which the guest puts its root filesystem together,
// and AddedDir what an image has over the files of that.
const (
	StageDir = "/.mvm"
	AddedDir = StageDir + "/added"
)

// Service is a service definition of an image: Dir/<name>.json. Strict: an
// unknown field is an error that the console and Status show.
type Service struct {
	Name    string   `json:"name"`
	Command []string `json:"command"` // argv, no shell
	// User is a name or number, and may have a group behind a colon.
	User string            `json:"user,omitempty"`
	Dir  string            `json:"dir,omitempty"`
	Env  map[string]string `json:"env,omitempty"` // below the pool's env, which wins
	// SecretEnv sets a variable to the content of a secret, when the secret is there.
	SecretEnv map[string]string `json:"secret_env,omitempty"`
	// IfEnv names a variable of the pool's env: the service is started only while it
	// is set and not empty. Without it the service is not part of Status.
	IfEnv string `json:"if_env,omitempty"`
	// Restart is "always" (default), "on-failure" or "never". A restart waits 0.5 s,
	// doubling to 30 s, and starts over after a minute of running.
	Restart string `json:"restart,omitempty"`
	// After names services that must be ready first.
	After []string `json:"after,omitempty"`
	// Ready says when the service is ready; nil: once it has run for a second (5 s after a
	// run that failed) or, for one whose Restart is not "always", once it has
	// ended with code 0.
	Ready *Ready `json:"ready,omitempty"`
	// StopSignal asks the service to end: a signal's name without SIG, or its number, default "TERM".
	StopSignal string `json:"stop_signal,omitempty"`
	// StopGraceSecs is the time between StopSignal and SIGKILL, default 10.
	StopGraceSecs int `json:"stop_grace_secs,omitempty"`
	// Busy is a URL on loopback that answers {"busy":bool,"reason":"…"} for
	// WorkerStatus; optional.
	Busy string `json:"busy,omitempty"`
	// Suspend is a URL on loopback by which the service is asked to hold still before
	// the machine stands still, and told to go on after; see suspension.
	Suspend string `json:"suspend,omitempty"`
	// OnSecrets tells the service, once it is ready, that its secrets have changed; nil:
	// it looks by itself, or not at all.
	OnSecrets *OnSecrets `json:"on_secrets,omitempty"`
}

// Once reports that the service is not one that runs for good.
func (s Service) Once() bool { return s.Restart == "on-failure" || s.Restart == "never" }

// OnSecrets is a way to tell a service of changed secrets; exactly one of the first
// three is set.
type OnSecrets struct {
	Signal  string   `json:"signal,omitempty"`  // to its main process: "HUP", "USR1", "USR2"
	Command []string `json:"command,omitempty"` // argv, as the service's user, well when it exits 0
	HTTP    string   `json:"http,omitempty"`    // URL on loopback, POSTed to, well on 2xx
	// TimeoutSecs bounds the command or the answer, default 10, at most 60.
	TimeoutSecs int `json:"timeout_secs,omitempty"`
}

// Ready is a readiness check; exactly one of the first four is set.
type Ready struct {
	HTTP string   `json:"http,omitempty"` // URL on loopback, ready on 2xx
	TCP  string   `json:"tcp,omitempty"`  // address, ready when it accepts
	File string   `json:"file,omitempty"` // ready when it exists
	Exec []string `json:"exec,omitempty"` // ready when it exits 0
	// IntervalMS is the time between checks, default 500; TimeoutSecs bounds the whole
	// wait before the service counts as failed and is restarted, default 600.
	IntervalMS  int `json:"interval_ms,omitempty"`
	TimeoutSecs int `json:"timeout_secs,omitempty"`
}
