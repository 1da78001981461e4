package envoy_test

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// loopbacks returns the loopback addresses of the machine, which may have no IPv6.
func loopbacks() []string {
	listener, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return []string{"127.0.0.1"}
	}
	_ = listener.Close()
	return []string{"127.0.0.1", "::1"}
}

// TestListenerAcceptsBothFamilies runs the listener of envoy.yaml, [::], and that of the demo, localhost. The address of
// an IPv4 client must not be IPv4-mapped.
func TestListenerAcceptsBothFamilies(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		for _, host := range []string{"[::]", "localhost"} {
			addresses, err := testbed.FreeAddresses(1)
			if err != nil {
				t.Fatal(err)
			}
			_, port, err := net.SplitHostPort(addresses[0])
			if err != nil {
				t.Fatal(err)
			}
			p := env.ownEnvoy(t, s, envoy.Addresses{Listener: "tcp://" + host + ":" + port})
			for _, client := range loopbacks() {
				p.addr = net.JoinHostPort(client, port)
				echo, ok := p.do(t, request{path: "/api/v1/me"}.with(bearer(env.creds.Plain))).upstream()
				if diff := cmp.Diff([]string{client}, echo.Headers["x-envoy-external-address"]); !ok || diff != "" {
					t.Errorf("listener %s, client %s: x-envoy-external-address (-want +got):\n%s", host, client, diff)
				}
			}
		}
	})
}

func TestUpstreamAtEachLoopbackAddress(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		for _, host := range loopbacks() {
			upstream := serve(t, net.JoinHostPort(host, "0"), nil)
			p := env.ownEnvoy(t, s, envoy.Addresses{Upstream: "tcp://" + upstream.addr})
			if got := p.do(t, request{path: "/api/v1/me"}.with(bearer(p.env.creds.Plain))); got.status != 200 {
				t.Errorf("%s: %d %s", host, got.status, got.body)
			}
		}
	})
}
