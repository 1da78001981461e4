package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// stack is the demo's parts and where they are. All addresses are HOST:PORT.
type stack struct {
	home *home
	port int // Envoy's

	envoyAdmin, authzdAdmin, keydAdmin, sidecars, operators, echo string

	parts []*part // in the order of their start
}

// listeners are Envoy's addresses for localhost: the second is empty on a machine without IPv6.
type listeners struct{ first, second string }

func (s *stack) url() string { return fmt.Sprintf("http://localhost:%d", s.port) }

// plan gives every part its address and writes the configuration files.
func plan(ctx context.Context, h *home, port int, l listeners) (*stack, error) {
	s := &stack{home: h, port: port}
	err := freeAddresses(ctx, &s.envoyAdmin, &s.authzdAdmin, &s.keydAdmin, &s.sidecars, &s.operators, &s.echo)
	if err != nil {
		return nil, err
	}
	envoyConfig, err := envoy.Render(envoy.Addresses{
		Listener: l.first,
		Second:   l.second,
		Admin:    "tcp://" + s.envoyAdmin,
		Authz:    "unix://" + h.addressed("authz.sock"),
		Owners:   "unix://" + h.addressed("owners.sock"),
		Upstream: "tcp://" + s.echo,
	})
	if err != nil {
		return nil, err
	}
	keydConfig, err := yaml.Marshal(s.keydConfig())
	if err != nil {
		return nil, err
	}
	authzdConfig, err := yaml.Marshal(s.authzdConfig())
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		"envoy.yaml": envoyConfig, "keyd.yaml": keydConfig, "authzd.yaml": authzdConfig,
		"key-api.token": newToken(), "operator.token": newToken(),
	} {
		if err := os.WriteFile(h.file(name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// newToken returns 52 random characters, twice the 128 bits of rand.Text.
func newToken() []byte { return []byte(rand.Text() + rand.Text()) }

type mapping map[string]any

// Nothing may hold up a stop for longer than the demo's own stopTime.
const drain = "2s"

func (s *stack) keydConfig() mapping {
	return mapping{
		"listen": mapping{
			"sidecars":  "tcp://" + s.sidecars,
			"operators": "tcp://" + s.operators,
			"owners":    "unix://" + s.home.addressed("owners.sock"),
			"admin":     "tcp://" + s.keydAdmin,
		},
		"store":               "sqlite://" + s.home.addressed("keys.db"),
		"sidecar_token_files": []string{"key-api.token"},
		"operators":           []mapping{{"name": "demo", "token_file": "operator.token"}},
		"drain":               drain,
	}
}

func (s *stack) authzdConfig() mapping {
	return mapping{
		"listen": mapping{
			"check": []string{"unix://" + s.home.addressed("authz.sock")},
			"admin": "tcp://" + s.authzdAdmin,
		},
		"key_api": mapping{"url": "http://" + s.sidecars, "token_file": "key-api.token"},
		"drain":   drain,
	}
}

// freeAddresses fills in loopback addresses that are free at this moment, all
// different.
func freeAddresses(ctx context.Context, addresses ...*string) error {
	for _, address := range addresses {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() { _ = listener.Close() }() // only after the last: so no two are the same
		*address = listener.Addr().String()
	}
	return nil
}

// localhost returns the addresses where the demo's callers will go, which may be either
// of IPv4 and IPv6, if nothing listens there.
func localhost(ctx context.Context, port int) (listeners, error) {
	var l listeners
	for _, at := range []struct {
		host string
		url  *string
	}{{"127.0.0.1", &l.first}, {"::1", &l.second}} {
		address := net.JoinHostPort(at.host, fmt.Sprint(port))
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		switch {
		case err == nil:
			_ = listener.Close()
			*at.url = "tcp://" + address
		case errors.Is(err, syscall.EADDRINUSE):
			return listeners{}, fmt.Errorf("port %d is busy: stop what listens there, or choose another with PORT=", port)
		case errors.Is(err, syscall.EACCES):
			return listeners{}, fmt.Errorf("port %d is not allowed to this user: choose another with PORT=", port)
		case at.host == "127.0.0.1":
			return listeners{}, err
		} // else this machine has no IPv6
	}
	return l, nil
}
