package node

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
)

// Fake is a node in memory that behaves as [Node] does: the same tests run against both. Its zero value has
// no address, all sysctls of [Sysctls] at "0", and no device.
type Fake struct {
	mu      sync.Mutex
	sysctls map[string]string
	lacks   map[string]bool
	addrs   []netip.Addr
	device  Device
	changed chan struct{}
	writes  int

	// Err, when it is not nil, is what every call that can fail returns.
	Err error
}

// Writes is how many settings, addresses and devices were written.
func (f *Fake) Writes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// Sysctl sets one, as another program would.
func (f *Fake) Sysctl(key, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sysctls == nil {
		f.sysctls = make(map[string]string)
	}
	f.sysctls[key] = value
}

// Lack takes a sysctl away, as on a kernel that has none such.
func (f *Fake) Lack(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lacks == nil {
		f.lacks = make(map[string]bool)
	}
	f.lacks[key] = true
}

// SetKubeProxy has the node have kube-proxy's device with the addresses, or not.
func (f *Fake) SetKubeProxy(there bool, addrs ...netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.device.KubeProxy, f.device.Proxied = there, addrs
}

// SetAddresses gives the node those addresses of its own, and says so on Changed.
func (f *Fake) SetAddresses(addrs ...netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	if slices.Equal(addrs, f.addrs) {
		return
	}
	f.addrs = addrs
	select {
	case f.channel() <- struct{}{}:
	default:
	}
}

// EnsureScheduler is [Node.EnsureScheduler].
func (f *Fake) EnsureScheduler(string) error { return f.Err }

// CheckSysctls is [Node.CheckSysctls].
func (f *Fake) CheckSysctls(want []Sysctl) ([]SysctlDiff, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err != nil {
		return nil, f.Err
	}
	var out []SysctlDiff
	for _, s := range want {
		have, ok := f.sysctls[s.Key]
		if !ok {
			have = "0"
		}
		switch {
		case f.lacks[s.Key] && s.Optional:
		case f.lacks[s.Key]:
			out = append(out, SysctlDiff{Sysctl: s, Missing: true})
		case have != s.Want:
			out = append(out, SysctlDiff{Sysctl: s, Have: have})
		}
	}
	return out, nil
}

// SetSysctls is [Node.SetSysctls].
func (f *Fake) SetSysctls(diffs []SysctlDiff) error {
	if f.Err != nil {
		return f.Err
	}
	for _, d := range diffs {
		f.mu.Lock()
		lacks := f.lacks[d.Key]
		f.writes++
		f.mu.Unlock()
		if !lacks {
			f.Sysctl(d.Key, d.Want)
		} else if !d.Optional {
			return fmt.Errorf("setting %s=%s: %w", d.Key, d.Want, os.ErrNotExist)
		}
	}
	return nil
}

// HasIPv6 is [Node.HasIPv6].
func (f *Fake) HasIPv6() bool { return true }

// Addresses is [Node.Addresses].
func (f *Fake) Addresses() ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.addrs), f.Err
}

// Changed is [Node.Changed].
func (f *Fake) Changed() (<-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.channel(), f.Err
}

func (f *Fake) channel() chan struct{} {
	if f.changed == nil {
		f.changed = make(chan struct{}, 1)
	}
	return f.changed
}

// ReadDevice is [Node.ReadDevice].
func (f *Fake) ReadDevice() (Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.device
	d.Addresses = slices.Clone(d.Addresses)
	d.Elsewhere = slices.Clone(f.addrs)
	return d, f.Err
}

// ApplyDevice is [Node.ApplyDevice].
func (f *Fake) ApplyDevice(ops []DeviceOp) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err != nil {
		return f.Err
	}
	for _, o := range ops {
		d, addr := &f.device, o.Addr.Addr()
		if !d.Exists && (o.Verb == SetDevice || o.Verb == AddAddress) {
			return fmt.Errorf("%s: %w", o, os.ErrNotExist)
		}
		f.writes++
		at, found := slices.BinarySearchFunc(d.Addresses, addr, netip.Addr.Compare)
		switch o.Verb {
		case AddDevice:
			d.Exists = true
		case SetDevice:
			d.Ready = true
		case AddAddress:
			if !found {
				d.Addresses = slices.Insert(d.Addresses, at, addr)
			}
		case DelAddress:
			if found {
				d.Addresses = slices.Delete(d.Addresses, at, at+1)
			}
		case DelDevice:
			*d = Device{KubeProxy: d.KubeProxy, Proxied: d.Proxied}
		}
	}
	return nil
}

// RemoveDevice is [Node.RemoveDevice].
func (f *Fake) RemoveDevice() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Err == nil && f.device.Exists {
		f.device = Device{}
		f.writes++
	}
	return f.Err
}

// Close is [Node.Close].
func (f *Fake) Close() error { return nil }
