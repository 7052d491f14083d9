// Package v1alpha1 is the API of pointsman.io/v1alpha1: the VirtualServer that a user writes, its
// defaults and what makes one valid.
//
// It is types and pure functions only; it reads no file and talks to no server. Whoever hands on a
// spec calls [Default] and then [Validate] first, so code that is given a spec may rely on every
// defaulted field being set and within its bounds.
//
// A VirtualServer that is refused says why in the message of its condition Accepted, or, when it was
// read from a manifest, in the log with file and line.
//
// +kubebuilder:object:generate=true
// +groupName=pointsman.io
package v1alpha1
