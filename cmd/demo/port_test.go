package main

import (
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestListenerHasLoopbackAddressesOfMachine(t *testing.T) {
	for _, c := range []struct {
		v4, v6      error
		want, wrong string
	}{
		{nil, nil, "tcp://localhost:7", ""},
		{nil, syscall.EADDRNOTAVAIL, "tcp://127.0.0.1:7", ""},
		{nil, syscall.EAFNOSUPPORT, "tcp://127.0.0.1:7", ""},
		{syscall.EADDRNOTAVAIL, nil, "", "cannot assign"},
		{syscall.EADDRINUSE, nil, "", "port 7 is in use"},
		{nil, syscall.EADDRINUSE, "", "port 7 is in use"},
		{syscall.EACCES, nil, "", "port 7 is not permitted"},
	} {
		got, err := localhost(7, func(address string) (net.Listener, error) {
			failure := c.v4
			if address == "[::1]:7" {
				failure = c.v6
			}
			if failure != nil {
				return nil, &net.OpError{Op: "listen", Err: failure}
			}
			return new(net.TCPListener), nil
		})
		if got != c.want || (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%v, %v: %q, %v", c.v4, c.v6, got, err)
		}
	}
}
