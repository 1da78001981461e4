package faults_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// Three times as many revoked keys are checked as the pool of known credentials has room for. All good keys stay cached.
func TestRevokedKeysEvictNothing(t *testing.T) {
	const pool = revokedKeys / 3
	s := newFixture(t, nil)
	authzd := s.authzd("authzd", testbed.Config{
		"cache":     testbed.Config{"credentials": pool, "unknown": 2 * revokedKeys},
		"admission": testbed.Config{"unknown_per_second": 1_000_000, "burst": 1_000_000},
	})
	eventually(t, "a lease", func() error { return metricIs(t, authzd, synced, 1) })
	checks := s.checks("authzd")
	good := make([]credential.Secret, pool/2)
	for i := range good {
		good[i] = s.mint().Secret
	}
	awaitAllowed(t, checks, good)
	for range revokedKeys {
		key := s.mint()
		must(s.Operators.Do(t.Context(), operatorapi.RevokeKey(key.ID)))(t)
		eventually(t, "a revoked key", func() error { return checkIs(checks, key.Secret, revoked) })
	}
	const misses = `phantom_authz_lookups_total{result="miss"}`
	before := must(authzd.Metric(t.Context(), misses))(t)
	for _, secret := range good {
		eventually(t, "a good key", func() error { return checkIs(checks, secret, allowed) })
	}
	if n := must(authzd.Metric(t.Context(), misses))(t) - before; n != 0 {
		t.Errorf("%v of %d good keys were evicted", n, len(good))
	}
}

// checkIs returns an error unless a check has the wanted answer.
func checkIs(checks checker, secret credential.Secret, want testbed.Answer) error {
	ctx, cancel := context.WithTimeout(context.Background(), testbed.Patience)
	defer cancel()
	got, err := checks.Check(ctx, secret, grpc.WaitForReady(true))
	if err == nil && got != want {
		err = fmt.Errorf("%v, want %v", got, want)
	}
	return err
}
