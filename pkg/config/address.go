package config

import "net"

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
