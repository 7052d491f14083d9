package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pointsman/pointsman/internal/lab"
)

// patience is how long the story waits for anything; the guest may share its cores with others.
const patience = 90 * time.Second

// stage is what the story is played on.
type stage struct {
	*screen
	*lab.Lab
	program   *lab.Pointsman
	manifests lab.Manifests
	daemon    *lab.Daemon
	vip       netip.AddrPort
}

// load is what every client of the demo does: it connects, reads which colour answered and hangs up
// with a reset, which IPVS forgets in 10 s; after an orderly end it remembers for 2 minutes, and the
// reader would have to wait for that at the end.
func (st *stage) load() lab.Load {
	return lab.Load{From: st.Client, Target: st.vip, Local: st.ClientAddrs, Rate: 150, Clients: 8, Ending: lab.Aborts}
}

// count opens n connections and reports them.
func (st *stage) count(n int) (lab.Report, error) {
	run := st.Start(st.load())
	err := run.Await(n, patience)
	return run.Stop(), err
}

// hold opens n connections that stay open and busy.
func (st *stage) hold(n int) (*lab.Sessions, error) {
	return st.Hold(lab.Held{From: st.Client, Target: st.vip, Local: st.ClientAddrs, Count: n, Timeout: 10 * time.Second})
}

// show runs a command on the node and shows it with its output.
func (st *stage) show(name string, args ...string) error {
	st.command("mast01", strings.Join(append([]string{name}, args...), " "))
	text, err := st.Node.Run(name, args...)
	st.output(text)
	return err
}

// call runs a command of the program on the node, with the two directories, which are not shown.
func (st *stage) call(args ...string) (lab.Result, error) {
	st.command("mast01", "pointsman "+strings.Join(args, " "))
	r, err := st.program.Call(args...)
	st.output(r.Stdout + r.Stderr)
	return r, err
}

// start starts the daemon and waits until it has read its colour back from the kernel.
func (st *stage) start(colour string) (err error) {
	st.command("mast01", "pointsman run --manifests DIR --state-dir DIR --node-name mast01 &")
	st.daemon, err = st.program.Run()
	if err != nil {
		return err
	}
	want := lab.Addrs(st.Colour(colour))
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		v, err := st.table()
		if err != nil {
			return err
		}
		if slices.Equal(v.Serving(), want) {
			return nil
		}
		if !st.daemon.Running() || time.Now().After(deadline) {
			return fmt.Errorf("the daemon did not set the table up; it said:\n%s", st.daemon.Output())
		}
	}
}

// table is the users' virtual server as the kernel has it.
func (st *stage) table() (lab.VirtualServer, error) {
	table, err := st.Node.Table()
	if err != nil {
		return lab.VirtualServer{}, err
	}
	v, _ := table.Find("TCP", st.vip)
	return v, nil
}

// weights are how many real servers of each colour get new connections, and how many are kept for
// the connections that they have.
func (st *stage) weights() (string, error) {
	v, err := st.table()
	if err != nil {
		return "", err
	}
	colour := map[netip.AddrPort]string{}
	for _, b := range st.Backends {
		colour[b.Addr] = b.Colour
	}
	serving, draining := map[string]int{}, map[string]int{}
	for _, r := range v.Real {
		switch {
		case r.Weight > 0:
			serving[colour[r.Addr]]++
		case r.Active > 0:
			draining[colour[r.Addr]]++
		}
	}
	if len(draining) == 0 {
		return tally(serving), nil
	}
	return tally(serving) + ", draining " + tally(draining), nil
}

// alive counts the open connections of a colour that exchange data now.
func alive(sessions ...*lab.Sessions) (string, error) {
	n := map[string]int{}
	var failed error
	for _, s := range sessions {
		if err := s.Await(patience); err != nil {
			failed = err
		}
		for _, each := range s.Report() {
			if each.Alive() {
				n[each.Colour]++
			}
		}
	}
	return tally(n), failed
}

// tally is counts by colour as "v1 12, v2 3".
func tally(n map[string]int) string {
	var parts []string
	for _, colour := range []string{"v1", "v2"} {
		if n[colour] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", colour, n[colour]))
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// only is the colours that answered, without their counts: what the story can know beforehand.
func only(r lab.Report) string {
	var colours []string
	for _, colour := range []string{"v1", "v2"} {
		if r.ByColour()[colour] > 0 {
			colours = append(colours, colour)
		}
	}
	return strings.Join(colours, " and ")
}

// errorsOf are the connections that did not go well, by what became of them.
func errorsOf(r lab.Report) string {
	if n := r.ByClass(); len(n) > 0 {
		return strings.Trim(fmt.Sprint(n), "map[]")
	}
	return "0"
}

// kernel is the release of the running kernel.
func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

// set makes the laboratory and the manifests.
func set(s *screen, binary, dir string) (*stage, error) {
	l, err := lab.New(lab.Config{Clients: 3})
	if err != nil {
		return nil, err
	}
	st := &stage{screen: s, Lab: l, vip: netip.AddrPortFrom(l.NodeAddr, 30080)}
	st.manifests = lab.Manifests{Dir: filepath.Join(dir, "manifests"), Name: "myapp"}
	st.program = &lab.Pointsman{
		Binary: binary, Node: l.Node, NodeName: "mast01",
		Manifests: st.manifests.Dir, State: filepath.Join(dir, "state"),
	}
	for _, d := range []string{st.manifests.Dir, st.program.State} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return st, err
		}
	}
	return st, st.manifests.WriteAll(l, "v1")
}
