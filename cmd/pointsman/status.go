package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/sync"
)

func newStatus(e env) *cobra.Command {
	var output string
	var watch bool
	c := &cobra.Command{
		Use:   "status [[NAMESPACE/]NAME]",
		Short: "What the daemon last read back from the kernel, by virtual server",
		Long: `Shows what the daemon of the state directory saw at its last pass: the active colour,
what drains, and what is wrong. With --kubeconfig it shows what the API server knows of all nodes.

Exit status: 0 healthy, 1 not: a pass failed, a manifest is bad or no daemon runs.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := configure(e, c)
			if err != nil {
				return err
			}
			if output != "" && output != "json" {
				return usage("--output %q: want json", output)
			}
			show := func() (string, error) {
				var b strings.Builder
				var err error
				if s.kubeconfig != "" {
					err = writeClusterStatus(c.Context(), &b, s, args, output, colourful(e.stdout))
				} else {
					err = writeStatus(&b, s.stateDir, args, output, colourful(e.stdout))
				}
				return b.String(), err
			}
			if !watch {
				text, err := show()
				fmt.Fprint(e.stdout, text)
				return err
			}
			last := ""
			for {
				text, err := show()
				if err != nil {
					text += err.Error() + "\n"
				}
				if text != last {
					fmt.Fprint(e.stdout, "\x1b[H\x1b[2J"+text)
					last = text
				}
				select {
				case <-c.Context().Done():
					return nil
				case <-time.After(200 * time.Millisecond):
				}
			}
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json: everything, for programs")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show it again whenever it changes")
	define(c, keyManifests, keyKubeconfig, keyStateDir)
	return c
}

// writeStatus writes the status as a person or a program reads it; the error says what is unhealthy.
func writeStatus(w io.Writer, stateDir string, args []string, output string, colour bool) error {
	status, err := sync.LoadStatus(stateDir)
	if err != nil {
		if sync.NoStatus(err) {
			return fmt.Errorf("no daemon has written a status to %s (`pointsman run --state-dir %s` does): %w", stateDir, stateDir, err)
		}
		return err
	}
	if len(args) == 1 {
		name := qualified(args[0])
		var only []sync.ServerStatus
		for _, s := range status.Servers {
			if s.Namespace+"/"+s.Name == name {
				only = append(only, s)
			}
		}
		if only == nil {
			return fmt.Errorf("there is no VirtualServer %s in the status", name)
		}
		status.Servers = only
	}
	running, err := sync.Running(stateDir)
	if err != nil {
		return err
	}
	if output == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(struct {
			*sync.Status
			Running bool `json:"running"`
			Healthy bool `json:"healthy"`
		}{status, running, running && status.Healthy()}); err != nil {
			return err
		}
	} else {
		p := painter{w, colour}
		p.status(status, running)
	}
	switch {
	case !running:
		return fmt.Errorf("no daemon runs over %s; this is what the last one saw", stateDir)
	case status.Error != "":
		return fmt.Errorf("the last pass failed: %s", status.Error)
	case len(status.Errors) > 0:
		return fmt.Errorf("%s", plural(len(status.Errors), "manifest is bad", "manifests are bad"))
	}
	return nil
}

// qualified is NAMESPACE/NAME of what may be a name alone.
func qualified(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return "default/" + name
}

// painter writes for a person, in colour where that is a terminal.
type painter struct {
	w      io.Writer
	colour bool
}

// Select Graphic Rendition codes (ECMA-48).
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (p painter) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p painter) line(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }

func (p painter) status(status *sync.Status, running bool) {
	state := p.paint(green, "healthy")
	switch {
	case !running:
		state = p.paint(red, "not running")
	case !status.Healthy():
		state = p.paint(red, "unhealthy")
	}
	p.line("node %s: %s", p.paint(bold, status.Node), state)
	if status.Error != "" {
		p.line("  %s %s", p.paint(red, "✗"), status.Error)
	}
	for _, e := range status.Errors {
		p.line("  %s %s", p.paint(red, "✗"), e.Message)
	}
	if len(status.Servers) == 0 {
		p.line("no virtual server is declared")
	}
	for i := range status.Servers {
		p.server(&status.Servers[i])
	}
}

// server writes one virtual server as a tree: addresses, colours, what drains.
func (p painter) server(s *sync.ServerStatus) {
	phase := p.paint(green, string(s.Status.Phase))
	if s.Status.Phase != v1alpha1.PhaseSteady || !s.Verified {
		phase = p.paint(yellow, string(s.Status.Phase))
	}
	p.line("")
	p.line("%s  %s", p.paint(bold, s.Namespace+"/"+s.Name), phase)
	for _, c := range s.Status.Conditions {
		if c.Status != "True" && c.Type != v1alpha1.ConditionSafeToRetire {
			p.line("  %s %s: %s", p.paint(yellow, "!"), c.Reason, c.Message)
		}
	}
	for _, v := range s.Virtual {
		p.line("  %s %s  %s", v.Key, v.Scheduler, plural(v.Serving, "real server", "real servers"))
		for _, at := range v.Steered {
			p.line("    %s %s", p.paint(dim, "from"), at)
		}
	}
	if s.SteeringReason != "" && s.SteeringReason != "declared" {
		p.line("  %s steering: %s, since %s", p.paint(dim, "i"), s.Steering, s.SteeringReason)
	}
	draining := map[string][]sync.DrainStatus{}
	for _, d := range s.Draining {
		draining[d.Colour] = append(draining[d.Colour], d)
	}
	for _, c := range s.Status.Colours {
		role := "idle"
		switch c.Name {
		case s.Status.Active:
			role = p.paint(green, "active")
		case s.Status.Previous:
			role = "previous"
		}
		p.line("  %s %-12s %3d of %d ready  %s%s", p.branch(), c.Name, c.Ready, c.Endpoints, role, drains(draining[c.Name]))
		delete(draining, c.Name)
	}
	for name, d := range draining {
		if name == "" {
			name = "(unknown)"
		}
		p.line("  %s %-12s %s%s", p.branch(), name, "gone", drains(d))
	}
	for _, c := range s.Status.Conditions {
		if c.Type == v1alpha1.ConditionSafeToRetire && c.Status == "True" {
			p.line("  %s %s: safe to retire", p.paint(green, "✓"), c.Message)
		}
	}
}

func (p painter) branch() string { return p.paint(dim, "•") }

// drains says what of a colour still has connections.
func drains(d []sync.DrainStatus) string {
	if len(d) == 0 {
		return ""
	}
	var active, inactive uint32
	for _, s := range d {
		active += s.Active
		inactive += s.Inactive
	}
	return fmt.Sprintf(", draining %s: %d active, %d closing", plural(len(d), "real server", "real servers"), active, inactive)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, one)
	}
	return fmt.Sprintf("%d %s", n, many)
}

// colourful is whether a writer is a terminal whose user did not ask for plain text (NO_COLOR).
func colourful(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
}
