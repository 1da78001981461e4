package envoy_test

import (
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/explain"
)

// TestModuleExplains: the module's admin listener explains decisions as authzd's does.
func TestModuleExplains(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		if p.front != module {
			return
		}
		client, err := explain.NewClient(p.Admin())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		request := explain.Request{Method: "GET", Path: keyOnly, Credential: explain.NewCredential(credential.Key, credential.NewSecret(p.env.creds.Plain))}
		e, text, err := client.Explain(t.Context(), request)
		if err != nil || e.Decision != "allow" || e.Requirement.Source != "endpoints" || e.Record.ID != p.env.creds.PlainID {
			t.Errorf("%v %s", err, text)
		}
	})
}
