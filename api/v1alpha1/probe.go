package v1alpha1

// Probe is a test of one endpoint, made from the node. Exactly one kind is set.
//
// +kubebuilder:validation:XValidation:rule="has(self.tcp) || has(self.http) || has(self.tls) || has(self.grpc)",message="give one of tcp, http, tls, grpc, as in probe: {tcp: {}}, or leave the probe out"
// +kubebuilder:validation:XValidation:rule="[has(self.tcp), has(self.http), has(self.tls), has(self.grpc)].filter(given, given).size() <= 1",message="is more than one kind of probe; keep one"
type Probe struct {
	// TCP passes when a connection opens.
	// +optional
	TCP *TCPProbe `json:"tcp,omitempty"`
	// HTTP passes when a GET is answered as expected.
	// +optional
	HTTP *HTTPProbe `json:"http,omitempty"`
	// TLS passes when a TLS handshake completes.
	// +optional
	TLS *TLSProbe `json:"tls,omitempty"`
	// GRPC passes when the gRPC health service answers SERVING.
	// +optional
	GRPC *GRPCProbe `json:"grpc,omitempty"`
}

// TCPProbe passes when a connection opens.
type TCPProbe struct {
	// Port to connect to; absent: the endpoint's own.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port *int32 `json:"port,omitempty"`
}

// HTTPProbe passes when a GET is answered as expected.
type HTTPProbe struct {
	// Port to connect to; absent: the endpoint's own.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port *int32 `json:"port,omitempty"`
	// Scheme of the request.
	// +kubebuilder:default=HTTP
	// +kubebuilder:validation:Enum="";HTTP;HTTPS
	// +optional
	Scheme string `json:"scheme,omitempty"`
	// Host header; empty: the endpoint's address.
	// +kubebuilder:validation:MaxLength=259
	// +optional
	Host string `json:"host,omitempty"`
	// Path of the request.
	// +kubebuilder:default=/
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self == '' || self.startsWith('/')",message="must begin with /"
	// +optional
	Path string `json:"path,omitempty"`
	// Status that the answer must have.
	// +kubebuilder:default=200
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=599
	// +optional
	Status *int32 `json:"status,omitempty"`
	// Body that the answer must contain; empty: any.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Body string `json:"body,omitempty"`
}

// TLSProbe passes when a TLS handshake completes.
type TLSProbe struct {
	// Port to connect to; absent: the endpoint's own.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port *int32 `json:"port,omitempty"`
	// ServerName sent as SNI; empty: none.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ServerName string `json:"serverName,omitempty"`
}

// GRPCProbe passes when the gRPC health service answers SERVING.
type GRPCProbe struct {
	// Port to connect to; absent: the endpoint's own.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port *int32 `json:"port,omitempty"`
	// Service asked for; empty: the server as a whole.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Service string `json:"service,omitempty"`
}
