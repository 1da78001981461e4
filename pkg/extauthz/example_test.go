package extauthz_test

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// records is a Source in memory.
type records map[credential.Digest]credential.Record

// Cached is Lookup: the map never waits.
func (r records) Cached(d credential.Digest) (rec credential.Record, found, known bool) {
	rec, found = r[d]
	return rec, found, true
}

func (r records) Lookup(_ context.Context, d credential.Digest) (credential.Record, bool, error) {
	rec, found := r[d]
	return rec, found, nil
}

// noUsage is a Usage that discards uses.
type noUsage struct{}

func (noUsage) Used(credential.Digest, bool, time.Time) {}

func ExampleChecker_Check() {
	key := credential.Mint(credential.Key)
	source := records{key.Digest(): {
		Kind: credential.Key, ID: "key_1", State: credential.Active, Scopes: credential.NewScopes("models:read"),
		Account: credential.Account{ID: "acc_1", State: credential.Active},
	}}
	checker := extauthz.NewChecker(source, noUsage{}, &extauthz.Rules{}, extauthz.NewMetrics(prometheus.NewRegistry(), nil))

	for _, scope := range []string{"models:read", "chat:companion"} {
		answer := checker.Check(context.Background(), &extauthz.Request{
			Authorization: []string{"Bearer " + key.Reveal()},
			Route:         extauthz.RouteRequirement{Set: true, Scope: scope},
		})
		fmt.Println(answer.Meta.Decision + ": " + answer.Meta.Reason)
		for _, h := range answer.Set {
			fmt.Printf("  %s: %s\n", h.Name, h.Value)
		}
		if !answer.Allow {
			fmt.Println(answer.Status, answer.Body)
		}
	}
	// Output:
	// allow: ok
	//   x-phantom-account-id: acc_1
	//   x-phantom-principal: key
	//   x-phantom-credential-id: key_1
	//   x-phantom-scopes: models:read
	// deny: scope_missing
	//   content-type: application/json
	//   cache-control: no-store
	//   www-authenticate: Bearer realm="phantom", error="insufficient_scope", scope="chat:companion"
	// 403 {"error":"FORBIDDEN","message":"Missing required scope: chat:companion","statusCode":403}
}
