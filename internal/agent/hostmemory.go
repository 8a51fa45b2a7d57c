package agent

import (
	"os"
	"strconv"
	"strings"

	"mvm/internal/policy"
)

// hostMemory measures the memory of the host. Kernels without pressure stall
// information do not say how long tasks waited for it.
func hostMemory() (policy.Memory, error) {
	total, available, err := memInfo()
	return policy.Memory{TotalMiB: total, AvailableMiB: available, Stalled: memoryStalled()}, err
}

// memoryStalled is the share of the last 10 s, in percent, in which some task waited
// for memory; -1 where the kernel does not say.
func memoryStalled() float64 {
	b, err := os.ReadFile("/proc/pressure/memory")
	if err != nil {
		return -1
	}
	return parseStalled(string(b))
}

// parseStalled reads "some avg10=0.12 avg60=… total=…", the first line of the file.
func parseStalled(s string) float64 {
	line, _, _ := strings.Cut(s, "\n")
	for _, field := range strings.Fields(line) {
		if v, ok := strings.CutPrefix(field, "avg10="); ok {
			if f, err := strconv.ParseFloat(v, 64); err == nil {
				return f
			}
		}
	}
	return -1
}
