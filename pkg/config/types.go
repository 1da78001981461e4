package config

// File is a file name. A relative one is taken from the folder of the
// configuration file and made absolute on loading; "" is none.
type File string

// ServerTLS is the TLS of a server's listeners.
type ServerTLS struct {
	// File with the certificate chain in PEM, the server's own first.
	CertFile File `yaml:"cert_file" required:"yes" file:"cert"`
	// File with the certificate's private key in PEM.
	KeyFile File `yaml:"key_file" required:"yes" file:"key"`
	// File with the CAs in PEM one of which must have signed each client's certificate; without, clients need none.
	ClientCAFile File `yaml:"client_ca_file" file:"ca"`
}

// ClientTLS is the TLS of a client. At least one field is given.
type ClientTLS struct {
	// File with the CAs in PEM one of which must have signed the server's certificate; without, the system's.
	CAFile File `yaml:"ca_file" file:"ca"`
	// File with the client's certificate chain in PEM. Needs key_file.
	CertFile File `yaml:"cert_file" file:"cert"`
	// File with the certificate's private key in PEM. Needs cert_file.
	KeyFile File `yaml:"key_file" file:"key"`
}

// Log is what is logged, as JSON lines on stderr.
type Log struct {
	// The least serious level that is written.
	Level string `yaml:"level" oneof:"debug|info|warn|error"`
}
