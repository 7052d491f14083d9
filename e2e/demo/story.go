package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pointsman/pointsman/internal/lab"
)

// tell tells the story.
func tell(s *screen, binary, dir string) (err error) {
	s.line(s.paint(bold, "Blue-green on one node port, with pointsman and the kernel's IPVS"))
	s.line(s.paint(dim, "Linux "+kernel()+"; real namespaces, sockets and listeners."))
	st, err := set(s, binary, dir)
	if st != nil {
		defer func() { err = errors.Join(err, st.Close()) }()
	}
	if err != nil {
		return err
	}
	watch, err := lab.WatchWrites(filepath.Base(binary))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, watch.Close()) }()

	var v1, v2 *lab.Sessions
	for _, step := range []func() error{
		st.topology,
		st.serve,
		func() (err error) { v1, err = st.open(); return err },
		func() error { return st.turn("switch", "v1", "v2", v1) },
		func() (err error) { v2, err = st.back(v1); return err },
		func() error { return st.drain(v1, v2) },
		st.bad,
		func() error { return st.restart(watch) },
		st.cleanup,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if s.failed > 0 {
		return errCounts
	}
	s.close(true, "the story holds")
	if os.Getenv("HOLD") != "" {
		return st.stay(dir)
	}
	return nil
}

// topology shows what there is, and that every backend answers.
func (st *stage) topology() error {
	st.title("A client, a node and twenty pods")
	st.output(`
client ─── mast01 ─┬─ 10.244.140.0/24   5 pods of v1, 5 pods of v2
192.0.2.100 .10    └─ 10.244.196.0/24   5 pods of v1, 5 pods of v2`[1:])
	n := map[string]int{}
	for _, b := range st.Backends {
		load := st.load()
		load.From, load.Target, load.Local = st.Node, b.Addr, nil
		n[load.Once().Colour]++
	}
	st.check("pods that answer the node with their colour", "v1 10, v2 10", tally(n))
	return nil
}

// serve starts the daemon: only the active colour is served, though both run.
func (st *stage) serve() error {
	st.title("pointsman starts; v1 is active and v2 runs beside it")
	text, err := os.ReadFile(st.manifests.VirtualServerFile())
	if err != nil {
		return err
	}
	st.command("mast01", "cat DIR/myapp-virtualserver.yaml")
	st.output(string(text))
	if err := st.start("v1"); err != nil {
		return err
	}
	if err := st.show("ipvsadm", "-Ln", "-t", st.vip.String()); err != nil {
		return err
	}
	if err := st.name(); err != nil {
		return err
	}
	weights, err := st.weights()
	if err != nil {
		return err
	}
	st.check("real servers", "v1 10", weights)
	report, err := st.count(150)
	if err != nil {
		return err
	}
	st.say("Clients open %d connections, one after the other: %s.", len(report), tally(report.ByColour()))
	st.check("colours that answered", "v1", only(report))
	st.check("pods that answered", 10, len(report.Backends()))
	st.check("connections refused, reset or timed out", 0, errorsOf(report))
	return nil
}

// name shows the table with names, as an operator knows it.
func (st *stage) name() error {
	st.command("mast01", "ipvsadm -L -t mast01:30080 | head -n 4")
	text, err := st.Node.Run("ipvsadm", "-L", "-t", "mast01:30080")
	if err != nil {
		return err
	}
	st.output(strings.Join(head(text, 4), "\n"))
	return nil
}

// open opens connections that outlive the switch.
func (st *stage) open() (*lab.Sessions, error) {
	st.title("Some users keep their connection open")
	s, err := st.hold(6)
	if err != nil {
		return nil, err
	}
	got, err := alive(s)
	st.check("open connections that exchange data", "v1 6", got)
	return s, err
}

// turn switches or rolls back under load and counts before, during and after.
func (st *stage) turn(verb, old, new string, open ...*lab.Sessions) error {
	if verb == "switch" {
		st.title("The switch to v2, under load")
	}
	run := st.Start(st.load())
	if err := run.Await(60, patience); err != nil {
		return err
	}
	args := []string{verb, "myapp", "--wait"}
	if verb == "switch" {
		args = []string{verb, "myapp", new, "--wait"}
	}
	asked := time.Now()
	r, err := st.call(args...)
	returned := time.Now()
	if err != nil {
		return err
	}
	st.check("exit status", 0, r.Status)
	if err := run.Await(60, patience); err != nil {
		return err
	}
	report := run.Stop()
	before, during, after := report.Until(asked), report.Since(asked).Until(returned), report.Since(returned)
	st.say("Connections that started before: %s; while it ran (%v): %s; after it had returned: %s.",
		tally(before.ByColour()), r.Took.Round(time.Millisecond), tally(during.ByColour()), tally(after.ByColour()))
	st.check("colours that answered before", old, only(before))
	st.check("colours that answered after", new, only(after))
	st.check(fmt.Sprintf("started after the first answer by %s, to %s", new, old), 0, len(report.Mixed(old, new)))
	st.check("connections refused, reset or timed out", 0, errorsOf(report))
	got, err := alive(open...)
	st.holds("open connections all exchange data", err)
	want := map[string]int{}
	for _, s := range open {
		for _, each := range s.Report() {
			want[each.Colour]++
		}
	}
	st.check("open connections, by the colour they began with", tally(want), got)
	weights, err := st.weights()
	if err != nil {
		return err
	}
	if verb == "switch" {
		st.say("The old colour's pods stay at weight 0 while they have connections (ActiveConn):")
		if err := st.show("ipvsadm", "-Ln", "-t", st.vip.String()); err != nil {
			return err
		}
		st.check("real servers", "v2 10, draining v1 6", weights)
	} else {
		st.check("real servers", "v1 10, draining v2 6", weights)
	}
	return nil
}

// back rolls back while connections of both colours are open.
func (st *stage) back(v1 *lab.Sessions) (*lab.Sessions, error) {
	st.title("Something is wrong with v2: back, under load")
	v2, err := st.hold(6)
	if err != nil {
		return nil, err
	}
	return v2, st.turn("rollback", "v2", "v1", v1, v2)
}

// drain ends the open connections and sees the drained real servers go.
func (st *stage) drain(sessions ...*lab.Sessions) error {
	st.title("The open connections end, and v2 is drained")
	st.say("These clients end with a reset, which IPVS forgets in 10 s (after an orderly end it remembers for 2 minutes).")
	ended := 0
	for _, s := range sessions {
		for _, each := range s.Abort() {
			if each.Alive() {
				ended++
			}
		}
	}
	st.check("connections that lasted to their own end", 12, ended)
	if err := st.drained(); err != nil {
		return err
	}
	_, err := st.call("status")
	return err
}

// drained waits until nothing drains any more.
func (st *stage) drained() error {
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		v, err := st.table()
		if err != nil {
			return err
		}
		if left := v.Draining(); len(left) == 0 || time.Since(began) > patience {
			st.check("real servers of v2 that are left in the table", 0, len(left))
			return nil
		}
	}
}

// bad switches to a version that takes connections and resets each, and watches the daemon go back.
func (st *stage) bad() error {
	st.title("A bad version: seen, and gone back from, by itself")
	st.manifests.Switch = "{observe: {window: 1m}}"
	if err := st.manifests.WriteVirtualServer("v1"); err != nil {
		return err
	}
	st.say("spec.switch is %s now, and every pod of v2 resets who connects. The kernel's own counters tell: connections came, and nothing went back.", st.manifests.Switch)
	for _, b := range st.Colour("v2") {
		b.Set(lab.Resetting)
	}
	run := st.Start(st.load())
	if err := run.Await(50, patience); err != nil {
		return err
	}
	r, err := st.call("switch", "myapp", "v2", "--wait")
	if err != nil {
		return err
	}
	returned := time.Now()
	if err := run.Await(50, patience); err != nil {
		return err
	}
	report := run.Stop()
	st.check("exit status: rolled back", 6, r.Status)
	after := report.Since(returned)
	st.check("colours that answer afterwards", "v1", only(after))
	st.check("connections that v2 broke afterwards", 0, errorsOf(after))
	if _, err := st.call("status"); err != nil {
		return err
	}
	for _, b := range st.Colour("v2") {
		b.Set(lab.Answering)
	}
	if _, err = st.call("abort", "myapp", "--wait"); err != nil {
		return err
	}
	return st.drained()
}

// restart stops the daemon, sees that nothing changes, and starts it again over a right kernel.
func (st *stage) restart(watch *lab.WriteWatch) error {
	st.title("The daemon stops (SIGTERM) and starts again")
	before, err := st.Node.Run("ipvsadm", "-Sn")
	if err != nil {
		return err
	}
	earlier, err := watch.Writes()
	if err != nil {
		return err
	}
	st.holds("the daemon ends by itself, with status 0", st.daemon.Terminate(patience))
	after, err := st.Node.Run("ipvsadm", "-Sn")
	if err != nil {
		return err
	}
	st.check("the table is byte for byte as before", true, before == after)
	report, err := st.count(40)
	if err != nil {
		return err
	}
	st.check("colours that answer without the daemon", "v1", only(report))
	st.check("connections refused, reset or timed out", 0, errorsOf(report))
	if _, err := st.call("plan", "--node-name", "mast01"); err != nil {
		return err
	}
	if err := st.start("v1"); err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond) // its first pass, and one that looks for drift
	now, err := watch.Writes()
	if err != nil {
		return err
	}
	if after, err = st.Node.Run("ipvsadm", "-Sn"); err != nil {
		return err
	}
	st.say("A probe in the kernel counts what processes named pointsman write to IPVS, nftables, sysctls and devices: %d since the story began.", len(earlier))
	wrote, ended := len(now)-len(earlier), laneLines(before)-laneLines(after)
	if ended > 0 {
		st.say("The last connections that earlier switches left have ended meanwhile, and what they were on is deleted: %d lines of the table.", ended)
	}
	st.check("other writes since the daemon was stopped", 0, max(0, wrote-max(0, ended)))
	return nil
}

// laneLines are the lines of a table that are about mark-keyed virtual servers, which go when their last connection has: two
// minutes after the switch at the latest, which is at any time in the story.
func laneLines(table string) int { return strings.Count(table, " -f ") }

// cleanup removes everything.
func (st *stage) cleanup() error {
	st.title("The end: cleanup")
	if err := st.daemon.Terminate(patience); err != nil {
		return err
	}
	st.command("mast01", "pointsman cleanup")
	r, err := st.program.Exec("cleanup", "--state-dir", st.program.State)
	if err != nil {
		return err
	}
	first := head(r.Stdout+r.Stderr, 3)
	st.output(strings.Join(first, "\n"))
	if more := count(r.Stdout+r.Stderr) - len(first); more > 0 {
		st.output(fmt.Sprintf("… %d more", more))
	}
	st.check("exit status", 0, r.Status)
	table, err := st.Node.Run("ipvsadm", "-Sn")
	if err != nil {
		return err
	}
	st.check("lines left in the IPVS table", 0, count(table))
	rules, err := st.Node.Run("nft", "list", "ruleset")
	if err != nil {
		return err
	}
	st.check("lines left in nftables", 0, count(rules))
	return nil
}
