// Command figures measures how the program is built: packages and their lines, the longest
// chain of imports, and how long functions are. Tests and testdata do not count.
//
//	go run ./test/figures                  prints them
//	go run ./test/figures -write FILE      also puts them into FILE, between its marks
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	write := flag.String("write", "", "put the figures into this file, between its marks")
	dir := flag.String("dir", ".", "the module's folder")
	flag.Parse()
	if err := run(*dir, *write); err != nil {
		fmt.Fprintf(os.Stderr, "figures: %v\n", err)
		os.Exit(1)
	}
}

func run(dir, write string) error {
	f, err := measure(dir)
	if err != nil {
		return err
	}
	fmt.Print(f.text())
	if write == "" {
		return nil
	}
	b, err := os.ReadFile(write)
	if err != nil {
		return err
	}
	page, err := put(string(b), f.text())
	if err != nil {
		return fmt.Errorf("%s: %w", write, err)
	}
	return os.WriteFile(write, []byte(page), 0o644)
}
