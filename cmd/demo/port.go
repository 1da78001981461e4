package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// publicPort parses the environment variable PORT.
func publicPort(text string) (int, error) {
	if text == "" {
		return 10000, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("PORT=%s is invalid: must be a number from 1 to 65535", text)
	}
	return int(port), nil
}

// listenTCP is net.Listen for TCP.
func listenTCP(address string) (net.Listener, error) { return net.Listen("tcp", address) }

// localhost returns Envoy's listener if the port is free: tcp://localhost:PORT for 127.0.0.1 and ::1, or
// tcp://127.0.0.1:PORT on a machine that cannot bind ::1, for example because of the sysctl disable_ipv6.
func localhost(port int, listen func(address string) (net.Listener, error)) (listener string, err error) {
	listener = fmt.Sprintf("tcp://localhost:%d", port)
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := listen(net.JoinHostPort(host, strconv.Itoa(port)))
		switch {
		case err == nil:
			_ = l.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			return "", fmt.Errorf("port %d is in use: stop the program that listens there, or choose another port with PORT=", port)
		case errors.Is(err, syscall.EACCES):
			return "", fmt.Errorf("port %d is not permitted for this user: choose another port with PORT=", port)
		case host == "127.0.0.1":
			return "", err
		default:
			listener = fmt.Sprintf("tcp://127.0.0.1:%d", port)
		}
	}
	return listener, nil
}
