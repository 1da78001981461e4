package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
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

// Tracing has the settings of OpenTelemetry traces.
type Tracing struct {
	// Base URL of an OpenTelemetry collector, which accepts OTLP over HTTP at `/v1/traces` below it:
	// http:// or https://.
	OTLP string `yaml:"otlp" required:"yes"`
}

// URL returns the parsed URL of the collector, nil without tracing.
func (t *Tracing) URL() *url.URL {
	if t == nil {
		return nil
	}
	u, err := url.Parse(t.OTLP)
	if err != nil {
		return nil // not after a load, which has parsed it
	}
	return u
}

func (t *Tracing) validate(r *report) {
	if t == nil || t.OTLP == "" {
		return // absent, or a mistake already
	}
	if u, ok := r.url("tracing.otlp", t.OTLP, "http://HOST[:PORT] or https://HOST[:PORT]", "http", "https"); ok {
		if err := checkWebHost(u); err != nil {
			r.invalid("tracing.otlp", err.Error())
		}
	}
}

// Address is where a server listens: tcp://HOST:PORT or unix:///PATH. It is a net.Addr. The zero
// Address means no address.
type Address struct{ network, where string }

var _ net.Addr = Address{}

// TCP makes an address of HOST:PORT.
func TCP(hostPort string) Address { return Address{"tcp", hostPort} }

// Unix makes an address of a socket's absolute path.
func Unix(path string) Address { return Address{"unix", path} }

// Network returns "tcp" or "unix", "" for the zero Address.
func (a Address) Network() string { return a.network }

// String returns HOST:PORT or the path, as net.Listen takes it.
func (a Address) String() string { return a.where }

// URL returns the address as the configuration writes it.
func (a Address) URL() string { return a.network + "://" + a.where }

const addressForm = "tcp://HOST:PORT or unix:///PATH"

// UnmarshalText implements encoding.TextUnmarshaler. Its error says what the address must be.
func (a *Address) UnmarshalText(text []byte) error {
	network, where, _ := strings.Cut(string(text), "://")
	check := checkHostPort
	switch network {
	case "tcp":
	case "unix":
		check = checkSocketPath
	default:
		return errors.New("must be " + addressForm)
	}
	*a = Address{network, where}
	return check(where)
}

// MarshalText implements encoding.TextMarshaler.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.URL()), nil }

// isLoopback reports whether only programs on this machine can reach the address.
func (a Address) isLoopback() bool {
	host, _, err := net.SplitHostPort(a.where)
	if err != nil || host == "localhost" {
		return err == nil
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func checkHostPort(where string) error {
	host, port, err := net.SplitHostPort(where)
	if err != nil {
		return errors.New("must have the form HOST:PORT, with an IPv6 address in brackets")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return errors.New("must have a port from 0 to 65535")
	}
	if !isHost(host) {
		return errors.New("must have a host: a name or an address, 0.0.0.0 or [::] for every interface")
	}
	return nil
}

func checkSocketPath(where string) error {
	switch {
	case !isCleanPath(where):
		return errors.New("must have the absolute path of a socket, in its shortest form")
	case len(where) > daemon.MaxSocketPath:
		return fmt.Errorf("must have a path of at most %d bytes", daemon.MaxSocketPath)
	}
	return nil
}

// isCleanPath reports whether where is the absolute path of a file in its shortest form.
func isCleanPath(where string) bool {
	return path.IsAbs(where) && path.Clean(where) == where && where != "/" && !strings.ContainsFunc(where, isControl)
}

// checkWebHost checks the host and port of an http or https URL.
func checkWebHost(u *url.URL) error {
	if u.Port() == "" && !strings.HasSuffix(u.Host, ":") {
		return checkHostPort(u.Host + ":1") // any port
	}
	return checkHostPort(u.Host)
}

// isHost reports whether host is an IP address or a DNS name without a trailing dot.
func isHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, dnsCharacters) != "" {
			return false
		}
	}
	return strings.Trim(host, "0123456789.") != "" // digits and dots alone are a wrong IP address
}

const dnsCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

func isControl(c rune) bool { return c < ' ' || c == 0x7f }
