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

func (s *stack) url() string { return fmt.Sprintf("http://localhost:%d", s.port) }

// plan gives every part its address and writes the configuration files.
func plan(ctx context.Context, h *home, port int, listener string) (*stack, error) {
	s := &stack{home: h, port: port}
	err := freeAddresses(ctx, &s.envoyAdmin, &s.authzdAdmin, &s.keydAdmin, &s.sidecars, &s.operators, &s.echo)
	if err != nil {
		return nil, err
	}
	envoyConfig, err := envoy.Render(envoy.Addresses{
		Listener: listener,
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

// listenTCP is net.Listen.
func listenTCP(address string) (net.Listener, error) {
	return net.Listen("tcp", address)
}

// localhost returns Envoy's listener for the addresses where the demo's callers will go, if
// nothing listens there: tcp://localhost:PORT for both, or tcp://127.0.0.1:PORT on a machine
// where ::1 cannot be bound, for example because of the sysctl disable_ipv6.
func localhost(port int, listen func(address string) (net.Listener, error)) (listener string, err error) {
	listener = fmt.Sprintf("tcp://localhost:%d", port)
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := listen(net.JoinHostPort(host, fmt.Sprint(port)))
		switch {
		case err == nil:
			_ = l.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			return "", fmt.Errorf("port %d is busy: stop what listens there, or choose another with PORT=", port)
		case errors.Is(err, syscall.EACCES):
			return "", fmt.Errorf("port %d is not allowed to this user: choose another with PORT=", port)
		case host == "127.0.0.1":
			return "", err
		default:
			listener = fmt.Sprintf("tcp://127.0.0.1:%d", port)
		}
	}
	return listener, nil
}
