package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Info is general information about IPVS in the kernel (IPVS_CMD_GET_INFO).
type Info struct {
	// Version is IPVS's own, as 0x010201 for 1.2.1 (IP_VS_VERSION_CODE).
	Version uint32
	// ConnTableSize is the number of rows of the connection hash table.
	ConnTableSize uint32
}

// Timeouts are how long a connection's entry lives without a packet (IPVS_CMD_GET_CONFIG).
type Timeouts struct {
	TCP    time.Duration // established
	TCPFin time.Duration // after a FIN
	UDP    time.Duration
}

// DaemonState is which part of the connection synchronisation runs (IP_VS_STATE_*, linux/ip_vs.h).
type DaemonState uint32

// The two parts; a node may run both.
const (
	Master DaemonState = 1 // IP_VS_STATE_MASTER
	Backup DaemonState = 2 // IP_VS_STATE_BACKUP
)

// Daemon is a connection synchronisation daemon of the kernel. What it does not know is zero.
type Daemon struct {
	State     DaemonState
	Interface string
	SyncID    uint32
	MaxLen    uint16     // bytes of UDP payload
	Group     netip.Addr // multicast group
	Port      uint16
	TTL       uint8
}

// Info reads the version and the size of the connection table.
func (c *Conn) Info(ctx context.Context) (Info, error) {
	var info Info
	err := c.single(ctx, cmdGetInfo, func(a *attrs) {
		switch a.kind {
		case infoVersion:
			info.Version = a.u32()
		case infoConnSize:
			info.ConnTableSize = a.u32()
		}
	})
	if err != nil {
		return Info{}, fmt.Errorf("ipvs: reading the version: %w", err)
	}
	return info, nil
}

// Timeouts reads the timeouts of connections, whole seconds.
func (c *Conn) Timeouts(ctx context.Context) (Timeouts, error) {
	var t Timeouts
	err := c.single(ctx, cmdGetConfig, func(a *attrs) {
		switch a.kind {
		case attrTimeoutTCP:
			t.TCP = time.Duration(a.u32()) * time.Second
		case attrTimeoutTCPFin:
			t.TCPFin = time.Duration(a.u32()) * time.Second
		case attrTimeoutUDP:
			t.UDP = time.Duration(a.u32()) * time.Second
		}
	})
	if err != nil {
		return Timeouts{}, fmt.Errorf("ipvs: reading the timeouts: %w", err)
	}
	return t, nil
}

// Daemons reads which synchronisation daemons run: none, the master, the backup, or both in that order.
func (c *Conn) Daemons(ctx context.Context) ([]Daemon, error) {
	if err := c.begin(ctx); err != nil {
		return nil, fmt.Errorf("ipvs: reading the synchronisation daemons: %w", err)
	}
	defer c.mu.Unlock()
	c.request(cmdGetDaemon, unix.NLM_F_DUMP, nil)
	var list []Daemon
	_, err := c.dump(ctx, func(_ int, payload []byte) error {
		d, err := parseDaemon(payload)
		list = append(list, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ipvs: reading the synchronisation daemons: %w", err)
	}
	return list, nil
}

func parseDaemon(payload []byte) (Daemon, error) {
	var d Daemon
	value, err := nested(payload, attrDaemon)
	if err != nil {
		return d, err
	}
	a := attrs{rest: value}
	for a.next() {
		switch a.kind {
		case daemonState:
			d.State = DaemonState(a.u32())
		case daemonInterface:
			d.Interface = string(a.text())
		case daemonSyncID:
			d.SyncID = a.u32()
		case daemonMaxLen:
			d.MaxLen = a.u16()
		case daemonGroup:
			d.Group, _ = address(a.value, unix.AF_INET)
		case daemonGroup6:
			d.Group, _ = address(a.value, unix.AF_INET6)
		case daemonPort: // the one port of the interface that is not in network order
			d.Port = a.u16()
		case daemonTTL:
			d.TTL = a.u8()
		}
	}
	if a.bad {
		return d, fmt.Errorf("%w: synchronisation daemon", errMalformed)
	}
	return d, nil
}

// single asks for something that one message answers, and hands each of its attributes to f.
func (c *Conn) single(ctx context.Context, cmd uint8, f func(*attrs)) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	c.request(cmd, 0, nil)
	return c.ask(ctx, func(payload []byte) error {
		a := attrs{rest: payload}
		for a.next() {
			f(&a)
		}
		if a.bad {
			return errMalformed
		}
		return nil
	})
}
