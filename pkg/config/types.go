package config

import (
	"errors"
	"path"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Duration is a duration that the configuration writes as time.ParseDuration reads it.
type Duration struct{ time.Duration }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(text))
	return err
}

// MarshalText implements encoding.TextMarshaler. It omits the zeros of 1h0m0s.
func (d Duration) MarshalText() ([]byte, error) {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return []byte(text), nil
}

// File is the name of a file. Loading makes a relative name absolute, from the folder of the
// configuration file. "" means no file.
type File string

const fileForm = "must be the name of a file"

// UnmarshalText implements encoding.TextUnmarshaler. Its error says what the name must be. It
// refuses a credential that was written in place of the name of its file.
func (f *File) UnmarshalText(text []byte) error {
	name := string(text)
	switch {
	case name == "" || strings.ContainsFunc(name, isControl):
		return errors.New(fileForm)
	case credential.ShapeOf(path.Base(name)) != credential.Foreign:
		return errors.New("must be the name of a file that holds the secret, not the secret")
	}
	*f = File(path.Clean(name))
	return nil
}

// ServerTLS is the TLS of a server's listeners.
type ServerTLS struct {
	// File with the certificate chain in PEM, the server certificate first.
	CertFile File `yaml:"cert_file" required:"yes" file:"cert"`
	// File with the private key of the certificate in PEM.
	KeyFile File `yaml:"key_file" required:"yes" file:"key"`
	// File with CA certificates in PEM. Clients must present a certificate that one of them has
	// signed; without this field they present none.
	ClientCAFile File `yaml:"client_ca_file,omitempty" file:"ca"`
}

// ClientTLS is the TLS of a client. At least one field is given.
type ClientTLS struct {
	// File with CA certificates in PEM, one of which must have signed the server certificate. The
	// default is the system's.
	CAFile File `yaml:"ca_file,omitempty" file:"ca"`
	// File with the client certificate chain in PEM. Requires key_file.
	CertFile File `yaml:"cert_file,omitempty" file:"cert"`
	// File with the private key of the certificate in PEM. Requires cert_file.
	KeyFile File `yaml:"key_file,omitempty" file:"key"`
}

// Log has the settings of the log: JSON lines on stderr.
type Log struct {
	// Least severe level that is logged.
	Level string `yaml:"level" oneof:"debug|info|warn|error"`
}
