package config

import (
	"errors"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

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
	ClientCAFile File `yaml:"client_ca_file" file:"ca"`
}

// ClientTLS is the TLS of a client. At least one field is given.
type ClientTLS struct {
	// File with CA certificates in PEM, one of which must have signed the server certificate. The
	// default is the system's.
	CAFile File `yaml:"ca_file" file:"ca"`
	// File with the client certificate chain in PEM. Requires key_file.
	CertFile File `yaml:"cert_file" file:"cert"`
	// File with the private key of the certificate in PEM. Requires cert_file.
	KeyFile File `yaml:"key_file" file:"key"`
}

// Log is what is logged, as JSON lines on stderr.
type Log struct {
	// Least severe level that is logged.
	Level string `yaml:"level" oneof:"debug|info|warn|error"`
}

// duration parses a duration of a range tag.
func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err) // a tag of this package
	}
	return d
}

// formatDuration formats a duration for the configuration: as a whole number of the largest unit
// that divides it, or else as d.String does.
func formatDuration(d time.Duration) string {
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}} {
		if d != 0 && d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	if d != 0 {
		return d.String()
	}
	return "0"
}
