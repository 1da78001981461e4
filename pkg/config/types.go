package config

import (
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// File is a file name. A relative one is taken from the folder of the
// configuration file and made absolute on loading; "" is none.
type File string

// ServerTLS is the TLS of a server's listeners.
type ServerTLS struct {
	// File with the certificate chain in PEM, the server's own first.
	CertFile File `yaml:"cert_file" required:"yes" file:"cert"`
	// File with the certificate's private key in PEM.
	KeyFile File `yaml:"key_file" required:"yes" file:"key"`
	// File with the CAs in PEM one of which must have signed each client's
	// certificate; without, clients need none.
	ClientCAFile File `yaml:"client_ca_file" file:"ca"`
}

// ClientTLS is the TLS of a client. At least one field is given.
type ClientTLS struct {
	// File with the CAs in PEM one of which must have signed the server's certificate;
	// without, the system's.
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

// parseDuration reads what time.ParseDuration accepts and what is not negative, such as
// 300ms, 2.5s, 1m30s and 0.
func parseDuration(s string) (time.Duration, bool) {
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0
}

// durationExamples is what messages show of parseDuration's form.
const durationExamples = "such as 300ms, 2.5s, 1m30s or 1h"

// formatDuration writes a duration as parseDuration reads it: as a whole number of the
// largest unit that divides it, or else as d.String does.
func formatDuration(d time.Duration) string {
	for _, u := range units {
		if d != 0 && d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	if d != 0 {
		return d.String()
	}
	return "0"
}

// looksSecret tells whether a value has the form of a credential of ours.
func looksSecret(value string) bool {
	return credential.ShapeOf(value[strings.LastIndex(value, "/")+1:]) != credential.Foreign
}

// element and entry name what is in a list and in a map.
func element(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }
func entry(field, key string) string     { return field + "[" + show(key) + "]" }
