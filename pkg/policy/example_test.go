package policy_test

import (
	"fmt"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

func ExampleDecide() {
	rec := credential.Record{
		Kind: credential.Key, ID: "key_1", State: credential.Active, Scopes: credential.NewScopes("models:read"),
		Account: credential.Account{ID: "acc_1", State: credential.Active},
	}
	for _, scopes := range []string{"models:read", "models:read chat:companion"} {
		d := policy.Decide(credential.Key, rec, true, policy.NewRequirement(policy.Any, scopes), time.Now())
		fmt.Printf("%v %d %v %q\n", d.Allowed(), d.Status(), d.Reason, d.Message())
	}
	// Output:
	// true 200 ok ""
	// false 403 scope_missing "Missing required scope: chat:companion"
}

func ExampleNewEndpoints() {
	table, err := policy.NewEndpoints([]policy.Endpoint{
		{Path: "/api/v1", Prefix: true, Requirement: policy.NewRequirement(policy.Any, "")},
		{Path: "/api/v1/chat", Prefix: true, Requirement: policy.NewRequirement(policy.Any, "chat:companion")},
		{Path: "/api/v1/keys", Methods: []string{"POST"}, Requirement: policy.NewRequirement(policy.SessionOnly, "")},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(table.Match("GET", "api.example", "/api/v1/models").Scopes())
	fmt.Println(table.Match("GET", "api.example", "/api/v1/%63hat/1?stream=1").Scopes())
	fmt.Println(table.Match("POST", "api.example", "/api/v1/keys").Principal == policy.SessionOnly)
	fmt.Println(table.Match("GET", "api.example", "/api/v1/keys").Principal == policy.NoPrincipal)

	_, err = policy.NewEndpoints([]policy.Endpoint{{Path: "/a/../b"}})
	fmt.Println(err)
	// Output:
	// []
	// [chat:companion]
	// true
	// true
	// path "/a/../b" is invalid: must not contain a dot segment
}
