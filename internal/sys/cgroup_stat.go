package sys

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// CgroupThrottled is how long the cgroups that EnterCgroup makes for the name wanted CPU
// time that they may not have; 0 where nobody counts it.
func CgroupThrottled(name string) time.Duration {
	dirs, _ := CgroupDirs(name) // a host may have none
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			n, err := strconv.ParseInt(value, 10, 64)
			switch {
			case err != nil:
			case key == "throttled_usec": // version 2
				return time.Duration(n) * time.Microsecond
			case key == "throttled_time":
				return time.Duration(n)
			}
		}
	}
	return 0
}
