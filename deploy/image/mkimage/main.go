// Mkimage writes an image archive out of binaries that are there: see scripts/image, which builds them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/pointsman/pointsman/deploy/image"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	name := flag.String("name", "", "the image's name, as in localhost/pointsman:dev")
	version := flag.String("version", "unknown", "the program's version, for a label")
	out := flag.String("o", "", "the archive to write")
	flag.Parse()
	tag, err := image.ParseName(*name)
	if err != nil {
		return err
	}
	var binaries []image.Binary
	for _, arg := range flag.Args() {
		arch, path, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("argument %q: want ARCHITECTURE=BINARY, as in amd64=bin/pointsman", arg)
		}
		binaries = append(binaries, image.Binary{Arch: arch, Path: path})
	}
	f, err := os.Create(*out)
	if err != nil {
		return fmt.Errorf("making the archive: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return image.Write(f, tag, *version, binaries)
}
