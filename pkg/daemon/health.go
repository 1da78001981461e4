package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// healthTimeout bounds a health check: a program that does not answer within it is
// of no use to Envoy either, which waits for half a second.
const healthTimeout = 2 * time.Second

// healthcheck asks the running program. It reads no more of the configuration than
// the admin address: a file that the running program has refused to take up must
// not make it look ill.
func healthcheck[C any](p Program[C], config string, os process) int {
	addr, configErr := p.Admin(config)
	if err := askReady(addr); err != nil {
		_, _ = fmt.Fprintf(os.stderr, "%s: not ready: %s\n", p.Name, err)
		if configErr != nil {
			_, _ = fmt.Fprintf(os.stderr, "the admin address is a guess, because the configuration cannot be read:\n%s\n", configErr)
		}
		return exitFailed
	}
	return exitOK
}

func askReady(addr net.Addr) error {
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			for _, at := range reachable(addr) {
				if conn, err = new(net.Dialer).DialContext(ctx, addr.Network(), at); err == nil {
					break
				}
			}
			return conn, err
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }() // read only
	reason, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %d: %s", addr, answer.StatusCode, strings.TrimSpace(string(reason)))
	}
	return nil
}

// reachable returns the addresses to dial for one that is listened on, one after the
// other: every interface includes the loopback, of which a machine may have only one
// family.
func reachable(addr net.Addr) []string {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil || !at.Addr().IsUnspecified() {
		return []string{addr.String()}
	}
	v4 := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()).String()
	v6 := netip.AddrPortFrom(netip.IPv6Loopback(), at.Port()).String()
	return []string{v4, v6}
}
