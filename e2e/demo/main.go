// Demo plays blue-green on one node port (docs, scenario) on a real kernel, as a story in which each
// step says what it expected and what it counted. `make demo` runs it inside a throw-away guest.
//
// It is not a test suite: e2e is. But it counts what it says, and ends with status 1 when a count is
// not what the story says. With HOLD=1 in the environment it ends in a shell on the node, with the
// daemon, the pods and the clients running.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

func main() {
	binary := flag.String("pointsman", "bin/pointsman", "the program to show")
	flag.Parse()
	s := newScreen(os.Stdout)
	err := play(s, *binary)
	switch {
	case errors.Is(err, errCounts):
		s.close(false, err.Error())
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
	default:
		return
	}
	os.Exit(1)
}

// play sets the stage, tells the story and leaves nothing behind.
func play(s *screen, binary string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root for network namespaces; `make demo` runs it in a guest")
	}
	if out, err := exec.Command("modprobe", "ip_vs").CombinedOutput(); err != nil {
		return fmt.Errorf("this kernel has no IPVS (%s); `make demo` runs it in a guest that has", out)
	}
	path, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("no program to show: %w", err)
	}
	dir, err := os.MkdirTemp("", "pointsman-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return tell(s, path, dir)
}
