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

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

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
