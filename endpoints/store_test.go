package endpoints

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/endpoints/manifest"
)

// app is a manifest with one VirtualServer and its Service.
func app(name, colour string, nodePort int) string {
	return fmt.Sprintf(`apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: %[1]s}
spec:
  service: {name: %[1]s}
  active: %[2]s
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, labels: {service.kubernetes.io/service-proxy-name: pointsman}}
spec: {type: NodePort, ports: [{port: 80, nodePort: %[3]d}]}
`, name, colour, nodePort)
}

// place is a manifest directory and a state directory.
type place struct {
	t          testing.TB
	dir, state string
}

func newPlace(t testing.TB) *place {
	p := &place{t, filepath.Join(t.TempDir(), "manifests"), t.TempDir()}
	require.NoError(t, os.Mkdir(p.dir, 0o755))
	return p
}

// write puts a file in place as an editor long gone did: it is older than what counts as being written.
func (p *place) write(name, text string) {
	p.t.Helper()
	temp := filepath.Join(p.dir, ".tmp")
	require.NoError(p.t, os.WriteFile(temp, []byte(text), 0o644))
	old := time.Now().Add(-time.Minute)
	require.NoError(p.t, os.Chtimes(temp, old, old))
	require.NoError(p.t, os.Rename(temp, filepath.Join(p.dir, name)))
}

func (p *place) remove(name string) {
	p.t.Helper()
	require.NoError(p.t, os.Remove(filepath.Join(p.dir, name)))
}

// settled scans until nothing is unsettled, as Run does.
func settled(s *store) *Snapshot {
	for s.scan() {
	}
	return s.snapshot()
}

// actives is the declared state in one line, and the errors' sources.
func actives(snap *Snapshot) string {
	var out []string
	for _, s := range snap.Servers {
		active := s.Spec.Active
		if s.Refused != nil {
			active += "!" + s.Refused.Reason
		}
		out = append(out, s.Key.Name+"="+active)
	}
	for _, e := range snap.Errors {
		out = append(out, "error:"+filepath.Base(e.Source))
	}
	return strings.Join(out, " ")
}

func TestStore(t *testing.T) {
	p := newPlace(t)
	s := newStore(p.dir, p.state)
	now := func() string { t.Helper(); out := actives(settled(s)); require.NoError(t, s.save()); return out }
	copies := func() string { return strings.Join(s.accepted.names(), " ") }

	assert.Equal(t, "", now())
	p.write("a.yaml", app("a", "v1", 30080))
	p.write(".hidden.yaml", "wrong")
	p.write("a.yaml~", "wrong")
	p.write("#a.yaml#", "wrong")
	p.write(".a.yaml.swp", "wrong")
	p.write("README.md", "wrong")
	require.NoError(t, os.Mkdir(filepath.Join(p.dir, "sub.yaml"), 0o755))
	assert.Equal(t, "a=v1", now())
	assert.Equal(t, "a.yaml", copies())

	p.write("a.yaml", app("a", "1", 30080))
	assert.Equal(t, "a=v1 error:a.yaml", now(), "a wrong file changes nothing")
	p.write("a.yaml", "")
	assert.Equal(t, "a=v1 error:a.yaml", now(), "nor does an empty one")
	p.write("b.yaml", app("b", "v1", 30081))
	assert.Equal(t, "a=v1 b=v1 error:a.yaml", now(), "nor does it hold back others")

	s = newStore(p.dir, p.state)
	assert.Equal(t, "a=v1 b=v1 error:a.yaml", now(), "a restart over a wrong file keeps its objects")
	loaded, err := Load(p.dir, p.state)
	require.NoError(t, err)
	assert.Equal(t, "a=v1 b=v1 error:a.yaml", actives(loaded))

	p.write("a.yaml", app("a", "v2", 30080))
	assert.Equal(t, "a=v2 b=v1", now())
	p.remove("a.yaml")
	assert.Equal(t, "b=v1", now())
	assert.Equal(t, "b.yaml", copies(), "the copy of a removed file is removed")

	p.write("a.yaml", app("a", "v1", 30080))
	now()
	p.remove("a.yaml")
	s = newStore(p.dir, p.state)
	assert.Equal(t, "b=v1", now(), "a file removed while nobody looked is removed")

	require.NoError(t, os.Rename(p.dir, p.dir+".away"))
	assert.Equal(t, "b=v1 error:manifests", now(), "a directory that vanishes takes nothing away")
	s = newStore(p.dir, p.state)
	assert.Equal(t, "b=v1 error:manifests", now(), "nor at a restart")
	loaded, err = Load(p.dir, p.state)
	require.NoError(t, err)
	assert.Equal(t, "b=v1 error:manifests", actives(loaded))
	_, err = Load(p.dir, t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.Rename(p.dir+".away", p.dir))
	assert.Equal(t, "b=v1", now())
}

// TestStoreUnreadable has a file that cannot be read, by its mode or, since root reads all, by what it
// is.
func TestStoreUnreadable(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string) error{
		"mode 000": func(t *testing.T, path string) error {
			if os.Geteuid() == 0 {
				t.Skip("root reads all")
			}
			return os.Chmod(path, 0)
		},
		"dangling link": func(_ *testing.T, path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Symlink("nowhere", path)
		},
		"link to itself": func(_ *testing.T, path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Symlink(path, path)
		},
		"pipe": func(_ *testing.T, path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return mkfifo(path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.write("a.yaml", app("a", "v1", 30080))
			s := newStore(p.dir, p.state)
			require.Equal(t, "a=v1", actives(settled(s)))
			require.NoError(t, spoil(t, filepath.Join(p.dir, "a.yaml")))
			assert.Equal(t, "a=v1 error:a.yaml", actives(settled(s)))
			p.write("a.yaml", app("a", "v2", 30080))
			assert.Equal(t, "a=v2", actives(settled(s)))
		})
	}
}

func TestStoreSameObjectTwice(t *testing.T) {
	p := newPlace(t)
	s := newStore(p.dir, p.state)
	p.write("b.yaml", app("x", "v1", 30080))
	settled(s)
	p.write("a.yaml", app("x", "v2", 30080))
	snap := settled(s)
	assert.Equal(t, "x=v1 error:a.yaml", actives(snap), "who had it keeps it")
	assert.Equal(t, "a.yaml: VirtualServer default/x is declared in b.yaml already; remove it from one of the two files", snap.Errors[0].Message)

	require.NoError(t, s.save())
	s = newStore(p.dir, p.state)
	assert.Equal(t, "x=v1 error:a.yaml", actives(settled(s)), "over a restart too")
	s = newStore(p.dir, t.TempDir())
	assert.Equal(t, "x=v2 error:b.yaml", actives(settled(s)), "of two new ones the first by name has it")

	s = newStore(p.dir, p.state)
	p.write("b.yaml", app("x", "v3", 30080))
	assert.Equal(t, "x=v3 error:a.yaml", actives(settled(s)), "who had it may change it")

	p.remove("b.yaml")
	assert.Equal(t, "x=v2", actives(settled(s)))
	require.NoError(t, os.Rename(filepath.Join(p.dir, "a.yaml"), filepath.Join(p.dir, "c.yaml")))
	s.scan()
	assert.Equal(t, "x=v2", actives(s.snapshot()), "a rename is no conflict")
	assert.Equal(t, "x=v2", actives(settled(s)))
}

// TestStoreMissingForAMoment: an editor that renames a file away and writes it anew takes nothing away.
func TestStoreMissingForAMoment(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	s := newStore(p.dir, p.state)
	settled(s)
	p.remove("a.yaml")
	assert.True(t, s.scan(), "to be looked at again")
	assert.Equal(t, "a=v1", actives(s.snapshot()))
	p.write("a.yaml", app("a", "v2", 30080))
	assert.Equal(t, "a=v2", actives(settled(s)))
}

// TestStoreBeingWritten: what was written this very moment may go on being written, though it parses.
func TestStoreBeingWritten(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080)+"---\n"+app("b", "v1", 30081))
	s := newStore(p.dir, p.state)
	settled(s)
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "a.yaml"), []byte(app("a", "v2", 30080)), 0o644))
	assert.True(t, s.scan(), "to be looked at again")
	assert.Equal(t, "a=v1 b=v1", actives(s.snapshot()))
	for range settleRounds {
		soon := time.Now().Add(-time.Millisecond)
		require.NoError(t, os.Chtimes(filepath.Join(p.dir, "a.yaml"), soon, soon))
		s.scan()
	}
	assert.Equal(t, "a=v1 b=v1 error:a.yaml", actives(s.snapshot()), "who never ends is named")
	time.Sleep(settle)
	assert.Equal(t, "a=v2", actives(settled(s)))
}

// TestStoreClaimsOverRestart: who has a Service or a port keeps it.
func TestStoreClaimsOverRestart(t *testing.T) {
	p := newPlace(t)
	s := newStore(p.dir, p.state)
	p.write("b.yaml", app("b", "v1", 30080))
	settled(s)
	p.write("a.yaml", app("a", "v1", 30080))
	assert.Equal(t, "a=v1!PortTaken b=v1", actives(settled(s)))
	require.NoError(t, s.save())
	assert.Equal(t, "a=v1!PortTaken b=v1", actives(settled(newStore(p.dir, p.state))))
}

// TestStoreReadsOnlyWhatChanged spoils what is cached and sees that it is not looked at again.
func TestStoreReadsOnlyWhatChanged(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	p.write("b.yaml", app("b", "v1", 30081))
	s := newStore(p.dir, p.state)
	settled(s)
	for _, f := range s.files {
		f.readAt = f.readAt.Add(time.Hour) // as if the files had been read long after they were written
	}
	was := s.files["a.yaml"].parsed
	p.write("b.yaml", app("b", "v2", 30081))
	assert.Equal(t, "a=v1 b=v2", actives(settled(s)))
	assert.Same(t, was, s.files["a.yaml"].parsed)
	assert.True(t, s.files["a.yaml"].readAt.After(time.Now()), "it was not even read")
}

// TestStoreSameStamp: a file written twice within the clock's grain, same size, is not missed.
func TestStoreSameStamp(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	s := newStore(p.dir, p.state)
	settled(s)
	f, err := os.OpenFile(filepath.Join(p.dir, "a.yaml"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(app("a", "v2", 30080))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	old := time.Now().Add(-time.Minute)
	require.NoError(t, os.Chtimes(f.Name(), old, old))
	info, err := os.Stat(f.Name())
	require.NoError(t, err)
	s.files["a.yaml"].stamp = stampOf(info)
	assert.Equal(t, "a=v2", actives(settled(s)))
}

func TestStoreWritesNothingAtRest(t *testing.T) {
	p := newPlace(t)
	p.write("a.yaml", app("a", "v1", 30080))
	s := newStore(p.dir, p.state)
	settled(s)
	require.NoError(t, s.save())
	before := stamps(t, p.state)
	s = newStore(p.dir, p.state)
	settled(s)
	require.NoError(t, s.save())
	assert.Equal(t, before, stamps(t, p.state))
	assert.Nil(t, s.files["a.yaml"].data)
}

func stamps(t *testing.T, dir string) map[string]stamp {
	out := map[string]stamp{}
	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			out[path] = stampOf(info)
		}
		return err
	}))
	return out
}

func TestStoreTamperedCopies(t *testing.T) {
	p := newPlace(t)
	accepted := filepath.Join(p.state, acceptedDir)
	require.NoError(t, os.MkdirAll(accepted, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(accepted, "a.yaml"), []byte("wrong"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(accepted, "b.yaml"), []byte(app("x", "v1", 30080)), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(accepted, "c.yaml"), []byte(app("x", "v2", 30080)), 0o644))
	for _, name := range []string{"a.yaml", "b.yaml", "c.yaml"} {
		p.write(name, "also wrong")
	}
	s := newStore(p.dir, p.state)
	assert.Equal(t, "x=v1 error:a.yaml error:b.yaml error:c.yaml error:c.yaml error:a.yaml", actives(settled(s)))
}

// TestStoreResolves: what the store resolves step by step is what Resolve makes of the files in force, objects that move from file to file included.
func TestStoreResolves(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		p := newPlace(t)
		s := newStore(p.dir, p.state)
		var last *Snapshot
		for range rapid.IntRange(1, 8).Draw(r, "steps") {
			name := rapid.SampledFrom([]string{"a.yaml", "b.yaml", "c.yaml"}).Draw(r, "file")
			if text := drawObjects(r); text != "" {
				p.write(name, text)
			} else if s.files[name] != nil && !s.files[name].missing {
				_ = os.Remove(filepath.Join(p.dir, name))
			}
			got := settled(s)
			o := Objects{Previous: last}
			for name, f := range s.files {
				if f.accepted == nil {
					continue
				}
				for _, vs := range f.accepted.VirtualServers {
					o.VirtualServers = append(o.VirtualServers, NewVirtualServer(vs, f.accepted.Digest))
				}
				o.Services = append(o.Services, f.accepted.Services...)
				for _, slice := range f.accepted.EndpointSlices {
					o.EndpointSlices = append(o.EndpointSlices, NewEndpointSlice(slice, filepath.Join(p.dir, name)))
				}
			}
			last = Resolve(o)
			if !assert.ObjectsAreEqual(last.Servers, got.Servers) {
				r.Fatalf("resolved %+v, want %+v", got.Servers, last.Servers)
			}
		}
	})
}

// drawObjects is some of the objects of two applications.
func drawObjects(r *rapid.T) string {
	var docs []string
	for i, name := range []string{"x", "y"} {
		for _, doc := range strings.SplitAfter(app(name, rapid.SampledFrom([]string{"v1", "v2"}).Draw(r, "active"), 30080+rapid.IntRange(0, 1).Draw(r, "port")), "---\n") {
			docs = append(docs, strings.TrimSuffix(doc, "---\n"))
		}
		docs = append(docs, fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, labels: {kubernetes.io/service-name: %[1]s, version: v1}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.%[2]d.%[3]d]}]
`, name, i, rapid.IntRange(1, 2).Draw(r, "address")))
	}
	some := docs[:0]
	for _, doc := range docs {
		if rapid.Bool().Draw(r, "there") {
			some = append(some, doc)
		}
	}
	return strings.Join(some, "---\n")
}

// BenchmarkStore changes one endpoint in one of 1,000 manifests of 20.
func BenchmarkStore(b *testing.B) {
	p := newPlace(b)
	text := func(n, endpoints int) string {
		out := app(fmt.Sprintf("app-%04d", n), "v1", 30000+n) + fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: app-%04[1]d, labels: {kubernetes.io/service-name: app-%04[1]d, version: v1}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
`, n)
		for i := range endpoints {
			out += fmt.Sprintf("- {addresses: [10.%d.%d.%d]}\n", n>>8, n&255, i+1)
		}
		return out
	}
	for n := range 1000 {
		p.write(fmt.Sprintf("app-%04d.yaml", n), text(n, 20))
	}
	s := newStore(p.dir, p.state)
	out := NewPublisher(logrus.New())
	out.Publish(settled(s))
	require.NoError(b, s.save())
	require.Len(b, out.Snapshot().Servers, 1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		p.write("app-0500.yaml", text(500, 20+(i+1)%2))
		b.StartTimer()
		snap := settled(s)
		if reflect.DeepEqual(out.Snapshot(), snap) {
			b.Fatal("nothing changed")
		}
		out.Publish(snap)
		require.NoError(b, s.save())
	}
}

// TestArbitrate draws edits, and holds each outcome to: no object twice, a file in force as it is or
// as it was, no error without cause, and nothing lost that some file still declares.
func TestArbitrate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		accepted := map[string]*manifest.File{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			candidates := map[string]candidate{}
			for _, name := range []string{"a", "b", "c"} {
				c := candidate{accepted: accepted[name]}
				if rapid.IntRange(0, 3).Draw(t, "parses") > 0 {
					c.parsed = drawFile(t)
				}
				candidates[name] = c
			}
			inForce, errs := arbitrate(candidates)
			seen := map[manifest.Key]bool{}
			for name, file := range inForce {
				c := candidates[name]
				switch {
				case file != c.parsed && file != c.accepted:
					t.Fatalf("%s: neither as it is nor as it was", name)
				case c.parsed != nil && file != c.parsed && errs[name] == "":
					t.Fatalf("%s: held back without an error", name)
				case file == c.parsed && file != c.accepted && errs[name] != "":
					t.Fatalf("%s: in force with an error", name)
				}
				if file == nil {
					if c.accepted != nil {
						t.Fatalf("%s: lost", name)
					}
					continue
				}
				for _, key := range file.Keys {
					if seen[key] {
						t.Fatalf("%s twice", key)
					}
					seen[key] = true
				}
			}
			accepted = inForce
		}
	})
}

func drawFile(t *rapid.T) *manifest.File {
	f := &manifest.File{}
	for _, name := range []string{"x", "y", "z"} {
		if rapid.IntRange(0, 2).Draw(t, name) == 0 {
			f.Keys = append(f.Keys, manifest.Key{Kind: "Service", NamespacedName: types.NamespacedName{Name: name}})
		}
	}
	return f
}
