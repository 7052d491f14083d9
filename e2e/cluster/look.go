package cluster

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/pointsman/pointsman/internal/lab"
)

// Get is the answer to an HTTP request from inside the node's namespace to itself, as for a daemon's
// health and metrics; a status other than 200 is an error.
func (n *Node) Get(url string) (string, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	var conn net.Conn
	if err := n.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", request.URL.Host, time.Second)
		return err
	}); err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if err := request.Write(conn); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s in %s: %s", url, n.Name(), response.Status)
	}
	return string(text), err
}

// Table is the node's IPVS table. Its namespace is one of several that have virtual servers.
func (n *Node) Table() (lab.Table, error) { return n.PrintedTable() }

// tail is the last lines of the text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
