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

// healthTimeout is the time limit of a health check. Larger detects a hanging program later;
// smaller reports a busy program as not ready.
const healthTimeout = 2 * time.Second

// healthcheck requests /readyz of the running program. It reads only the admin address of the
// configuration, because the running program may have refused the file.
func healthcheck[C any](p Program[C], config string, _ process) error {
	addr, configErr := p.Admin(config)
	err := requestReady(addr)
	switch {
	case err == nil:
		return nil
	case configErr != nil:
		return fmt.Errorf("not ready: %w\nthe admin address is the default, because the configuration cannot be read:\n%w", err, configErr)
	}
	return fmt.Errorf("not ready: %w", err)
}

func requestReady(addr net.Addr) error {
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			for _, target := range dialTargets(addr) {
				if conn, err = new(net.Dialer).DialContext(ctx, addr.Network(), target); err == nil {
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
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %d: %s", addr, answer.StatusCode, strings.TrimSpace(string(reason)))
	}
	return err
}

// dialTargets returns the addresses to dial, one after the other, for a listener's address. An
// unspecified host becomes the loopback address of both families, because a machine may have only
// one of them.
func dialTargets(addr net.Addr) []string {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil || !at.Addr().IsUnspecified() {
		return []string{addr.String()}
	}
	v4 := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()).String()
	v6 := netip.AddrPortFrom(netip.IPv6Loopback(), at.Port()).String()
	return []string{v4, v6}
}
