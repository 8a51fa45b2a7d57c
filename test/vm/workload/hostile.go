package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hostile is a guest that does not play its part, for ever.
func hostile(how string) {
	err := prepare()
	fmt.Println("hostile guest:", how, err)
	switch how {
	case "flood":
		flood()
	case "forge":
		forge(channel())
	case "dial":
		dial(channel())
	}
	for {
		time.Sleep(time.Hour)
	}
}

// prepare mounts what is needed and loads the image's modules.
func prepare() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	list, err := os.ReadFile("/etc/mvm/modules")
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

// flood writes to the guest channel what no protocol knows, as fast as it can.
func flood() {
	junk := []byte(strings.Repeat("\x00\x00\x00\x01\xff\xfe{\"Acquire\":", 5000))
	for {
		ports, _ := filepath.Glob("/dev/vport*p1")
		if len(ports) == 0 {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		f, err := os.OpenFile(ports[0], os.O_WRONLY, 0)
		if err != nil {
			fmt.Println("open the channel:", err)
			time.Sleep(time.Second)
			continue
		}
		fmt.Println("flooding")
		for err == nil {
			_, err = f.Write(junk)
		}
		fmt.Println("the channel ended:", err)
		_ = f.Close()
	}
}
