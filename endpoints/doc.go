// Package endpoints is what could get traffic: VirtualServers, the Services they name and the
// endpoints behind these, of every colour, as one immutable [Snapshot].
//
// Its source is a directory of manifests, watched by [Manifests] or read once by [Load], or a Kubernetes
// API server, watched by package cluster. [Resolve], and [Resolver] in steps, is the pure way from objects
// to a Snapshot and knows no source. The text of one file is package manifest's affair. Nothing here
// decides which colour is served, and nothing touches the kernel.
//
// A caller may rely on this: a source that cannot be used takes nothing away. A manifest that does
// not parse, a directory that vanished or a file without permission leaves what it last declared in
// force, over restarts too (the copies under the state directory, in accepted/), and is named in
// Snapshot.Errors. Only a file that is gone from a readable directory removes its objects.
//
// When it misbehaves, read Snapshot.Errors (`pointsman status` prints them) and compare the manifest
// with its accepted copy.
package endpoints
