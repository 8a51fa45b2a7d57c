//go:build !amd64

package jail

const auditArch = 0
