package api

import (
	"mvm/internal/api/wire"
	"time"
)

// Bounds of what the server takes and holds.
const (
	MaxBody       = 1 << 20      // of a request's JSON
	MaxDeployBody = 2 << 20      // of a deployment, which carries secrets
	MaxStateBody  = 6<<20 + 4096 // of a desired state
	MaxInFlight   = 256          // requests at once; more are refused with KindUnavailable

	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = time.Minute
	maxHeader     = 64 << 10
	maxStreams    = 64 // of one HTTP/2 connection at once
)

// maxLine bounds one line of a stream, and maxAnswer a whole answer, at the client.
const (
	maxLine   = 16 << 20
	maxAnswer = 64 << 20
)

// Version describes the agent's binary.
type Version struct {
	API      int    `json:"api"` // of this protocol: 1
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go,omitempty"`
}

// APIVersion is the version of the protocol in this package.
const APIVersion = 1

// none stands for "no body" and "no result".
type none struct{}

type tenantAnswer struct {
	Tenant wire.Tenant `json:"tenant"`
	Usage  wire.Usage  `json:"usage"`
}

// secretsRequest sets secrets; null removes one. Values are base64.
type secretsRequest struct {
	Secrets map[string][]byte `json:"secrets"`
}

type generationAnswer struct {
	Generation int `json:"generation"`
}

type rollbackRequest struct {
	Build string `json:"build,omitempty"`
}

type createInstanceRequest struct {
	Key string `json:"key,omitempty"`
}

// deployRequest carries the deployment. NoSecrets says that the tenant shall have
// none, which JSON can't tell from "leave them alone".
type deployRequest struct {
	Deployment wire.Deployment `json:"deployment"`
	NoSecrets  bool            `json:"no_secrets,omitempty"`
	Dry        bool            `json:"dry,omitempty"`
	NoWait     bool            `json:"no_wait,omitempty"`
	Force      bool            `json:"force,omitempty"`
	Manifest   string          `json:"manifest,omitempty"`
}

type verifyRequest struct {
	Live bool `json:"live"`
}

type freedAnswer struct {
	Freed int64 `json:"freed_bytes"`
}

// line is one line of an NDJSON stream: any number with progress or item, then one
// with result or error, and the stream ends.
type line[T any] struct {
	Progress *wire.Progress `json:"progress,omitempty"`
	Item     *T             `json:"item,omitempty"`
	Result   *T             `json:"result,omitempty"`
	Error    *errorBody     `json:"error,omitempty"`
}
