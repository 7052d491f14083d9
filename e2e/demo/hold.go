package main

import (
	"fmt"
	"iter"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// hints are shown to who stays.
const hints = `
You are root on mast01 (HOLD=1). The daemon runs, so do twenty pods. To try:

  ipvsadm -Ln                       the kernel's table
  users 40                          40 connections from the client, by colour
  pointsman switch myapp v2 --wait  and users again
  pointsman rollback myapp --wait
  pointsman status                  pointsman plan
  ipvsadm -C; sleep 1; ipvsadm -Ln  it is put back
  nft list ruleset
  ls $POINTSMAN_MANIFESTS           edit one: the daemon follows
  less $LOG                         what the daemon says

exit (or Ctrl-D) ends it all.
`

// bashrc is what the shell begins with.
const bashrc = `PS1='\[\e[36m\]mast01#\[\e[0m\] '
users() {
	ip netns exec client bash -c '
		for i in $(seq "$1"); do
			exec 3<>/dev/tcp/%[1]s/%[2]d && read -r colour rest <&3 && echo "$colour"
			exec 3>&-
		done' users "${1:-20}" | sort | uniq -c
}
`

// stay leaves the reader in a shell on the node, with everything running, until it ends.
func (st *stage) stay(dir string) error {
	logFile, err := os.Create(filepath.Join(dir, "pointsman.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	st.program.Log = logFile
	if st.daemon, err = st.program.Run(); err != nil {
		return err
	}
	rc := filepath.Join(dir, "bashrc")
	if err := os.WriteFile(rc, fmt.Appendf(nil, bashrc, st.vip.Addr(), st.vip.Port()), 0o644); err != nil {
		return err
	}
	fmt.Fprint(st.out, hints)
	// Ctrl-C is for what runs in the shell. Taken and dropped, not ignored: that would be inherited.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGQUIT)
	cmd := exec.Command("bash", "--rcfile", rc, "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "POINTSMAN_") && !strings.HasPrefix(variable, "PATH=") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env,
		"PATH="+filepath.Dir(st.program.Binary)+":"+os.Getenv("PATH"),
		"POINTSMAN_MANIFESTS="+st.program.Manifests, "POINTSMAN_STATE_DIR="+st.program.State,
		"POINTSMAN_NODE_NAME=mast01", "LOG="+logFile.Name())
	if err := st.Node.Start(cmd); err != nil {
		return err
	}
	_ = cmd.Wait() // its exit status is that of the last command typed
	return st.daemon.Terminate(patience)
}

// lines are the lines of a text, without their ends.
func lines(text string) iter.Seq[string] {
	return strings.SplitSeq(strings.TrimRight(text, "\n"), "\n")
}

// head is the first n lines of a text.
func head(text string, n int) []string {
	all := slices.Collect(lines(text))
	return all[:min(n, len(all))]
}

// count is how many lines a text has that are not empty.
func count(text string) int {
	n := 0
	for line := range lines(text) {
		if strings.TrimSpace(line) != "" {
			n++
		}
	}
	return n
}
