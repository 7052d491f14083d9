// Package image makes pointsman's container image out of its binaries, without a container engine.
//
// It is not a builder: it compiles nothing and knows no registry. The image is the program and nothing
// else, so there is no shell, no package and no modprobe in it.
//
// The same binaries give the same bytes, on every machine: no time, user or order of the machine gets in.
//
// To look inside a file that it wrote: tar tf FILE. It is an OCI layout (index.json, blobs/) that an older
// `docker load` can read too (manifest.json).
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Program is where the binary is in the image.
const Program = "/pointsman"

// Binary is the program for one architecture.
type Binary struct {
	Arch string // as Go names it: amd64, arm64
	Path string
}

// New is the image for one architecture.
func New(b Binary, version string) (v1.Image, error) {
	content, err := layer(b.Path)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	l, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("making the layer of %s: %w", b.Path, err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{CreatedBy: "scripts/image"}}); err != nil {
		return nil, fmt.Errorf("adding the layer of %s: %w", b.Path, err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("making the configuration: %w", err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = b.Arch, "linux"
	config.Config = v1.Config{
		Entrypoint: []string{Program},
		// Root without capabilities but those it is given. Another user would get none at all: Kubernetes
		// has no ambient capabilities, and no_new_privs makes the kernel ignore those of a file.
		User: "0:0",
		Labels: map[string]string{
			"org.opencontainers.image.title":   "pointsman",
			"org.opencontainers.image.version": version,
			"org.opencontainers.image.source":  "https://github.com/pointsman/pointsman",
		},
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, fmt.Errorf("setting the configuration: %w", err)
	}
	return img, nil
}

// layer is a tar of the program alone.
func layer(path string) ([]byte, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the program: %w", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := addFile(w, Program[1:], 0o755, program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("ending the layer: %w", err)
	}
	return out.Bytes(), nil
}

// addFile adds a file of root's without a time of its own.
func addFile(w *tar.Writer, path string, mode int64, content []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: mode, Size: int64(len(content)), Format: tar.FormatPAX}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// ParseName is an image's full name: `pointsman:v1` alone would be somebody's on Docker Hub.
func ParseName(text string) (name.Tag, error) {
	tag, err := name.NewTag(text, name.StrictValidation)
	if err != nil {
		return name.Tag{}, fmt.Errorf("image name %q: want REGISTRY/NAME:TAG, as in localhost/pointsman:dev: %w", text, err)
	}
	return tag, nil
}
