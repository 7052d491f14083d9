// Package v1alpha1 is the API of pointsman.io/v1alpha1: the VirtualServer that a user writes, its
// defaults and what makes one valid, and the NodeReport that a node's daemon writes.
//
// It is types and pure functions only; it reads no file and talks to no server. Whoever hands on a
// spec calls [Default] and then [Validate] first, so code that is given a spec may rely on every
// defaulted field being set and within its bounds.
//
// What is valid is said twice: by [Validate], and by the markers on the types, of which scripts/generate
// makes the CRDs in deploy/crd for the API server. The two accept and refuse the same and default alike:
// the tests run the CRDs through the API server's own packages beside the manifest reader. A new rule
// goes into both, with a case in internal/apicases; only how a text is written is checked in one place
// more, endpoints/manifest.
//
// A VirtualServer that is refused says why in the message of its condition Accepted, or, when it was
// read from a manifest, in the log with file and line.
//
// +kubebuilder:object:generate=true
// +groupName=pointsman.io
package v1alpha1
