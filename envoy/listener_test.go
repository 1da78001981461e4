package envoy_test

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// loopbacks returns the machine's loopback addresses: IPv6 may be missing.
func loopbacks() []string {
	listener, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return []string{"127.0.0.1"}
	}
	_ = listener.Close()
	return []string{"127.0.0.1", "::1"}
}

// TestListenerTakesBothFamilies runs the listener of envoy.yaml, [::], and that of the demo, localhost. A client's
// address is its IPv4 address, not an IPv4-mapped one.
func TestListenerTakesBothFamilies(t *testing.T) {
	for _, version := range versions() {
		for _, host := range []string{"[::]", "localhost"} {
			t.Run(version+" "+host, func(t *testing.T) {
				w := shared(t)
				ports, err := freePorts(1)
				if err != nil {
					t.Fatal(err)
				}
				_, port, err := net.SplitHostPort(ports[0])
				if err != nil {
					t.Fatal(err)
				}
				f := w.ownEnvoy(t, version, envoy.Addresses{Listener: "tcp://" + host + ":" + port})
				for _, client := range loopbacks() {
					f.addr = net.JoinHostPort(client, port)
					echo, ok := f.ask(t, request{path: "/api/v1/me"}.with(bearer(w.held.plain))).upstream()
					if diff := cmp.Diff([]string{client}, echo.Headers["x-envoy-external-address"]); !ok || diff != "" {
						t.Errorf("client %s: x-envoy-external-address (-want +got):\n%s", client, diff)
					}
				}
			})
		}
	}
}

// TestUpstreamOnIPv6 sends a request on to an upstream with an IPv6 address.
func TestUpstreamOnIPv6(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			for _, host := range loopbacks() {
				upstream := serve(t, net.JoinHostPort(host, "0"), nil)
				f := shared(t).ownEnvoy(t, version, envoy.Addresses{Upstream: "tcp://" + upstream.addr})
				if got := f.ask(t, request{path: "/api/v1/me"}.with(bearer(f.w.held.plain))); got.status != 200 {
					t.Errorf("%s: %d %s", host, got.status, got.body)
				}
			}
		})
	}
}
