package v1alpha1

// Probe is a test of one endpoint, made from the node. Exactly one kind is set.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type Probe struct {
	// +optional
	TCP *TCPProbe `json:"tcp,omitempty"`
	// +optional
	HTTP *HTTPProbe `json:"http,omitempty"`
	// +optional
	TLS *TLSProbe `json:"tls,omitempty"`
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
	// +kubebuilder:default=HTTP
	// +kubebuilder:validation:Enum=HTTP;HTTPS
	// +optional
	Scheme string `json:"scheme,omitempty"`
	// Host header; empty: the endpoint's address.
	// +optional
	Host string `json:"host,omitempty"`
	// +kubebuilder:default=/
	// +optional
	Path string `json:"path,omitempty"`
	// Status that the answer must have.
	// +kubebuilder:default=200
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=599
	// +optional
	Status *int32 `json:"status,omitempty"`
	// Body that the answer must contain; empty: any.
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
	// +optional
	Service string `json:"service,omitempty"`
}
