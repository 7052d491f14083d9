package image

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
)

// build builds the program as scripts/image does.
func build(t *testing.T) string {
	t.Helper()
	sources(t, "../..")
	path := filepath.Join(t.TempDir(), "pointsman")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=test-version", "-o", path, "../../cmd/pointsman")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// sources opens the folders that the program is built from. Go's test cache knows of what a test opens, and
// not of what a compiler that it starts reads: a change of the program would pass untested.
func sources(t *testing.T, root string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains([]string{".git", ".cache", "bin"}, d.Name()) {
			return fs.SkipDir
		}
		return err
	}))
}

// write writes an archive and gives its path.
func write(t *testing.T, binaries ...Binary) string {
	t.Helper()
	tag, err := ParseName("localhost/pointsman:dev")
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, Write(&out, tag, "test-version", binaries))
	path := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, os.WriteFile(path, out.Bytes(), 0o644))
	return path
}

// unpack is a directory with a tar's content.
func unpack(t *testing.T, from io.Reader) string {
	t.Helper()
	dir := t.TempDir()
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		require.NoError(t, err)
		require.Zero(t, h.Uid+h.Gid)
		require.True(t, h.ModTime.Equal(time.Unix(0, 0)), "%s: %v", h.Name, h.ModTime)
		require.Equal(t, byte(tar.TypeReg), h.Typeflag)
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, content, os.FileMode(h.Mode)))
	}
}

// TestRunsFromScratch: the archive is a whole OCI layout and a docker archive of the same image, and the program
// in it runs where there is no other file.
func TestRunsFromScratch(t *testing.T) {
	archive := write(t, Binary{goruntime.GOARCH, build(t)}, Binary{"arm64", "image.go"})
	docker, err := tarball.ImageFromPath(archive, nil)
	require.NoError(t, err)
	require.NoError(t, validate.Image(docker))

	f, err := os.Open(archive)
	require.NoError(t, err)
	defer f.Close()
	index, err := layout.ImageIndexFromPath(unpack(t, f))
	require.NoError(t, err)
	require.NoError(t, validate.Index(index))
	top, err := index.IndexManifest()
	require.NoError(t, err)
	require.Len(t, top.Manifests, 1)
	require.Equal(t, "localhost/pointsman:dev", top.Manifests[0].Annotations["io.containerd.image.name"])
	all, err := index.ImageIndex(top.Manifests[0].Digest)
	require.NoError(t, err)
	manifest, err := all.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 2)
	require.Equal(t, &v1.Platform{OS: "linux", Architecture: goruntime.GOARCH}, manifest.Manifests[0].Platform)
	require.Equal(t, "arm64", manifest.Manifests[1].Platform.Architecture)
	img, err := all.Image(manifest.Manifests[0].Digest)
	require.NoError(t, err)

	for _, img := range []v1.Image{img, docker} {
		config, err := img.ConfigFile()
		require.NoError(t, err)
		require.Equal(t, goruntime.GOARCH, config.Architecture)
		require.Equal(t, "0:0", config.Config.User)
		require.Equal(t, []string{Program}, config.Config.Entrypoint)
		require.Empty(t, config.Config.Cmd)
		layers, err := img.Layers()
		require.NoError(t, err)
		require.Len(t, layers, 1)
		content, err := layers[0].Uncompressed()
		require.NoError(t, err)
		root := unpack(t, content)
		require.NoError(t, content.Close())
		found, err := os.ReadDir(root)
		require.NoError(t, err)
		require.Len(t, found, 1, "the program and nothing else")
		cmd := exec.Command(config.Config.Entrypoint[0], "version")
		cmd.Dir, cmd.Env = "/", []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		if uid := os.Geteuid(); uid != 0 { // chroot takes root, if only of a user namespace
			cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "test-version")
	}
}

// TestReproducible: the same binary, at another path with another time, gives the same bytes.
func TestReproducible(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for path, mode := range map[string]os.FileMode{first: 0o755, second: 0o700} {
		require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("pointsman"), 1000), mode))
	}
	require.NoError(t, os.Chtimes(second, time.Unix(1e9, 0), time.Unix(1e9, 0)))
	a, err := os.ReadFile(write(t, Binary{"amd64", first}))
	require.NoError(t, err)
	b, err := os.ReadFile(write(t, Binary{"amd64", second}))
	require.NoError(t, err)
	require.True(t, bytes.Equal(a, b))
	require.NoError(t, os.WriteFile(second, []byte("another"), 0o755))
	c, err := os.ReadFile(write(t, Binary{"amd64", second}))
	require.NoError(t, err)
	require.False(t, bytes.Equal(a, c))
}

func TestParseName(t *testing.T) {
	for _, bad := range []string{"", "pointsman", "pointsman:dev", "localhost/pointsman", "localhost/Pointsman:dev"} {
		_, err := ParseName(bad)
		require.ErrorContains(t, err, "localhost/pointsman:dev", bad)
	}
}
