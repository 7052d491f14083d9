package v1alpha1

import "k8s.io/apimachinery/pkg/runtime/schema"

// GroupVersion is the API group and version of every type in this package.
var GroupVersion = schema.GroupVersion{Group: "pointsman.io", Version: "v1alpha1"}

// KindVirtualServer is the kind of a VirtualServer object.
const KindVirtualServer = "VirtualServer"
