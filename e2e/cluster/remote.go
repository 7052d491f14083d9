package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// remoteVariable is the variable that tells the guest where the host's half listens.
const remoteVariable = "POINTSMAN_CLUSTER_REMOTE"

// remote is the guest's way to say what the control plane is to do: POST to one of
// /fresh, /apiserver/stop and /apiserver/start, answered when it is done; /kubectl, with a [kubectl], answered with what
// that printed; /audit, answered with the API server's audit log; or /clock, answered with the host's time in
// nanoseconds since 1970.
type remote struct {
	listener net.Listener
	server   *http.Server

	mu    sync.Mutex // one thing at a time
	plane *ControlPlane
	used  bool // a test had it
}

// kubectl is a run of it on the host, where an administrator has it and nothing is emulated.
type kubectl struct {
	Input string // on its standard input
	Args  []string
}

func serveRemote(plane *ControlPlane) (*remote, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &remote{listener: listener, plane: plane}
	mux := http.NewServeMux()
	mux.Handle("POST /fresh", r.does(r.fresh))
	mux.Handle("POST /apiserver/stop", r.does(func() error { plane.Interrupt(); return nil }))
	mux.Handle("POST /apiserver/start", r.does(plane.Resume))
	mux.HandleFunc("POST /kubectl", func(w http.ResponseWriter, request *http.Request) {
		var k kubectl
		err := json.NewDecoder(request.Body).Decode(&k)
		if err == nil {
			k.Args = append([]string{"--kubeconfig", plane.path("host.kubeconfig")}, k.Args...)
			var out string
			if out, err = run(k.Input, filepath.Join(plane.binaries, "kubectl"), k.Args...); err == nil {
				fmt.Fprint(w, out)
				return
			}
		}
		http.Error(w, err.Error(), http.StatusInternalServerError)
	})
	mux.HandleFunc("POST /audit", func(w http.ResponseWriter, request *http.Request) {
		http.ServeFile(w, request, plane.path(auditLog))
	})
	mux.HandleFunc("POST /clock", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, time.Now().UnixNano())
	})
	r.server = &http.Server{Handler: mux}
	go func() { _ = r.server.Serve(listener) }()
	return r, nil
}

func (r *remote) does(f func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := f(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// fresh makes the control plane one that no test had before.
func (r *remote) fresh() error {
	if r.used {
		if err := errors.Join(r.plane.Stop(), r.plane.Start()); err != nil {
			return err
		}
	}
	r.used = true
	return nil
}

// url is where the guest reaches it.
func (r *remote) url() string {
	return fmt.Sprintf("http://%s:%d", hostFromGuest, r.listener.Addr().(*net.TCPAddr).Port)
}

// Close is safe to be called again.
func (r *remote) Close() { _ = r.server.Close() }

// ask is the guest's half.
func ask(what string) error {
	_, err := askFor(what)
	return err
}

// askFor is ask for an answer that is wanted.
func askFor(what string) (string, error) { return askWith(what, nil) }

func askWith(what string, body io.Reader) (string, error) {
	client := &http.Client{Timeout: 2 * startPatience}
	began := time.Now()
	response, err := client.Post(os.Getenv(remoteVariable)+what, "", body)
	if err != nil {
		return "", fmt.Errorf("asking the host for %s: %w", what, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return "", fmt.Errorf("asking the host for %s, after %v: %w", what, time.Since(began).Round(time.Millisecond), err)
	}
	return string(text), nil
}
