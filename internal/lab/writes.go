package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// writers are the functions of the kernel that change what pointsman is responsible for.
var writers = map[string]string{
	"ipvs":    "ip_vs_genl_set_cmd",
	"nft":     "nf_tables_commit",
	"sysctl":  "proc_sys_write",
	"link":    "rtnl_newlink",
	"unlink":  "rtnl_dellink",
	"address": "inet_rtm_newaddr",
	"release": "inet_rtm_deladdr",
}

// WriteWatch sees, in the kernel itself, each write that processes of one name make to IPVS,
// nftables, sysctls, devices and addresses. "Writes nothing" can be shown in no other way: IPVS
// tells nobody of changes, and writing what is there already changes nothing that could be compared.
type WriteWatch struct {
	root     string // where tracefs is mounted
	instance string // the trace buffer of this watch
	undo     []func() error
}

// WatchWrites puts a probe on each of the writers until the watch is closed. One watch of a process
// may run at a time.
func WatchWrites(program string) (w *WriteWatch, err error) {
	w = &WriteWatch{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("watching the kernel's writers: %w", errors.Join(err, w.Close()))
		}
	}()
	if w.root, err = os.MkdirTemp("", "tracefs-"); err != nil {
		return nil, err
	}
	w.undo = append(w.undo, func() error { return os.Remove(w.root) })
	if err = unix.Mount("tracefs", w.root, "tracefs", 0, ""); err != nil {
		return w, fmt.Errorf("mounting tracefs: %w", err)
	}
	w.undo = append(w.undo, func() error { return unix.Unmount(w.root, unix.MNT_DETACH) })
	// A function of a module that is not there yet cannot have a probe.
	for _, module := range []string{"ip_vs", "nf_tables"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			return w, fmt.Errorf("loading %s: %w: %s", module, err, out)
		}
	}
	group := fmt.Sprintf("lab%d", os.Getpid())
	w.instance = filepath.Join(w.root, "instances", group)
	probes := filepath.Join(w.root, "kprobe_events")
	for name, function := range writers {
		if err = appendTo(probes, fmt.Sprintf("p:%s/%s %s", group, name, function)); err != nil {
			return w, err
		}
		w.undo = append(w.undo, func() error { return appendTo(probes, fmt.Sprintf("-:%s/%s", group, name)) })
	}
	if err = os.Mkdir(w.instance, 0o755); err != nil {
		return w, err
	}
	w.undo = append(w.undo, func() error { return os.Remove(w.instance) })
	for name := range writers {
		event := filepath.Join(w.instance, "events", group, name)
		if err = appendTo(filepath.Join(event, "filter"), fmt.Sprintf("comm == %q", program)); err != nil {
			return w, err
		}
		if err = appendTo(filepath.Join(event, "enable"), "1"); err != nil {
			return w, err
		}
		w.undo = append(w.undo, func() error { return appendTo(filepath.Join(event, "enable"), "0") })
	}
	return w, nil
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %q to %s: %w", text, path, err)
	}
	return nil
}

// Writes are those seen so far, each as the kernel's tracer prints it.
func (w *WriteWatch) Writes() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(w.instance, "trace"))
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// Close takes the probes away.
func (w *WriteWatch) Close() error {
	var errs []error
	for i := len(w.undo) - 1; i >= 0; i-- {
		errs = append(errs, w.undo[i]())
	}
	w.undo = nil
	return errors.Join(errs...)
}
