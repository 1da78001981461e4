package config

import (
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// Address is where a server listens: tcp://HOST:PORT or unix:///PATH. It is a
// net.Addr, so that a listener can take it as it is. The zero Address is none.
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

// loopback tells whether only this machine reaches the address.
func (a Address) loopback() bool {
	host, _, err := net.SplitHostPort(a.where)
	if err != nil || host == "localhost" {
		return err == nil
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

const (
	addressForm = "tcp://HOST:PORT or unix:///PATH"

	// maxSocketPath is Linux's limit for the path of a Unix socket: sun_path has 108
	// bytes, the last of which is 0.
	maxSocketPath = 107
)

// parseAddress reads an address; why is what is wrong with it, as the end of a
// sentence that begins with it, or "".
func parseAddress(s string) (a Address, why string) {
	switch {
	case strings.HasPrefix(s, "tcp://"):
		a.network, a.where = "tcp", s[len("tcp://"):]
		return a, wrongHostPort(a.where)
	case strings.HasPrefix(s, "unix://"):
		a.network, a.where = "unix", s[len("unix://"):]
		return a, wrongSocketPath(a.where)
	}
	return Address{}, " without a known scheme"
}

func wrongHostPort(where string) string {
	host, port, err := net.SplitHostPort(where)
	if err != nil {
		return ", which is not HOST:PORT (an IPv6 host stands in brackets)"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return ", which has no port from 0 to 65535"
	}
	switch {
	case host == "":
		return ", which has no host (0.0.0.0 or [::] for every interface)"
	case !isHost(host):
		return ", which has no valid host"
	}
	return ""
}

func wrongSocketPath(where string) string {
	switch {
	case !strings.HasPrefix(where, "/"):
		return ", which is not an absolute path"
	case path.Clean(where) != where || where == "/" || strings.ContainsFunc(where, isControl):
		return ", which is not a clean path of a file"
	case len(where) > maxSocketPath:
		return ", a path of " + strconv.Itoa(len(where)) + " bytes where the system takes " + strconv.Itoa(maxSocketPath)
	}
	return ""
}

// isHost tells whether host is an IP address or a DNS name without a trailing dot.
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
