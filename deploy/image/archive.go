package image

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Write writes the images of all the binaries under one name. An engine that reads OCI layouts (containerd,
// podman, docker with the containerd image store) picks its own architecture; an older docker, whose
// format has one image to a name, gets that of the first binary.
func Write(w io.Writer, tag name.Tag, version string, binaries []Binary) error {
	var all v1.ImageIndex = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var first v1.Image
	for _, b := range binaries {
		img, err := New(b, version)
		if err != nil {
			return err
		}
		if first == nil {
			first = img
		}
		all = mutate.AppendManifests(all, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: b.Arch}},
		})
	}
	if first == nil {
		return fmt.Errorf("an image needs at least one binary")
	}
	named := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: all,
		Descriptor: v1.Descriptor{Annotations: map[string]string{
			"io.containerd.image.name":          tag.Name(),   // containerd takes the full name from here,
			"org.opencontainers.image.ref.name": tag.TagStr(), // the others go by the tag
		}},
	})
	dir, err := os.MkdirTemp("", "pointsman-image-")
	if err != nil {
		return fmt.Errorf("making the layout's directory: %w", err)
	}
	defer os.RemoveAll(dir)
	if _, err := layout.Write(dir, named); err != nil {
		return fmt.Errorf("writing the layout: %w", err)
	}
	if err := writeDocker(filepath.Join(dir, "manifest.json"), tag, first); err != nil {
		return err
	}
	return archive(w, dir)
}

// writeDocker writes what `docker load` reads, over the same blobs.
func writeDocker(path string, tag name.Tag, img v1.Image) error {
	config, err := img.ConfigName()
	if err != nil {
		return fmt.Errorf("naming the configuration: %w", err)
	}
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("listing the layers: %w", err)
	}
	blob := func(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
	d := tarball.Descriptor{Config: blob(config), RepoTags: []string{tag.Name()}}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return fmt.Errorf("naming a layer: %w", err)
		}
		d.Layers = append(d.Layers, blob(h))
	}
	text, err := json.Marshal(tarball.Manifest{d})
	if err != nil {
		return fmt.Errorf("writing manifest.json: %w", err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("writing manifest.json: %w", err)
	}
	return nil
}

// archive writes a directory as a tar, in the order of its names.
func archive(w io.Writer, dir string) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return addFile(out, filepath.ToSlash(rel), 0o644, content)
	})
	if err != nil {
		return fmt.Errorf("archiving the layout: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("archiving the layout: %w", err)
	}
	return nil
}
