package sidecarapi

import (
	"fmt"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// No response causes a panic, and each result that is Found has all fields that a decision needs.
func FuzzResolve(f *testing.F) {
	for _, seed := range []string{
		resolveBody(goodFacts, `"found":false`), resolveBody(`"found":false`, edit(`null`, `"2030-01-02T03:04:05Z"`)),
		resolveBody(goodFacts), `{}`, ``, resolveBody(`"found":true`, `"found":null`),
		resolveBody(edit(`"kind":"key"`, `"kind":"session"`), edit(`["b","a"]`, `[]`)),
	} {
		f.Add([]byte(seed))
	}
	requested := []credential.Digest{digest("a"), digest("b")}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := decodeResolve(body, requested)
		if err != nil {
			return
		}
		if len(got.Results) != len(requested) || got.Epoch == "" || got.Revision < 0 {
			t.Fatalf("%+v", got)
		}
		again := ResolveResponse{Epoch: got.Epoch, Revision: got.Revision}
		for i, r := range got.Results {
			rec := r.Record
			complete := rec.ID != "" && rec.Account.ID != "" && rec.Kind != 0 && rec.State != 0 && rec.Account.State != 0
			if (r.Outcome == Found) != complete || r.Outcome > Found {
				t.Fatalf("%+v", r)
			}
			for _, scope := range rec.Scopes.List() {
				if !credential.ValidScope(scope) {
					t.Fatalf("scope %q", scope)
				}
			}
			if r.Outcome == Unusable {
				return
			}
			again.Credentials = append(again.Credentials, CredentialOf(requested[i], r.Outcome == Found, rec))
		}
		// Encoded as the server does, it decodes to the same.
		raw, err := json.Marshal(again)
		if err != nil {
			return // a year beyond RFC 3339
		}
		back, err := decodeResolve(raw, requested)
		if err != nil || fmt.Sprint(back.Epoch, back.Revision) != fmt.Sprint(got.Epoch, got.Revision) {
			t.Fatalf("%s: %v", raw, err)
		}
		for i := range back.Results {
			if back.Results[i].Record.ID != got.Results[i].Record.ID || !back.Results[i].Record.ExpiresAt.Equal(got.Results[i].Record.ExpiresAt) {
				t.Fatalf("%+v became %+v", got.Results[i], back.Results[i])
			}
		}
	})
}

// Accepted changes are in order, each names one digest or account, and none is beyond the head.
func FuzzChanges(f *testing.F) {
	d := digest("a").Hex()
	for _, seed := range []string{
		`{"epoch":"one","revision":7,"changes":[],"lease_ms":15000}`,
		`{"epoch":"one","revision":7,"changes":[{"revision":5,"credential":"` + d + `"},{"revision":6,"account":"a"}],"lease_ms":0}`,
		`{"epoch":"one","revision":7,"changes":[{"revision":5}],"lease_ms":1}`,
		`{"epoch":"one","revision":3,"changes":null,"lease_ms":1}`,
	} {
		f.Add([]byte(seed), int64(4))
	}
	f.Fuzz(func(t *testing.T, body []byte, after int64) {
		got, err := decodeChanges(body, ChangesRequest{After: after})
		if err != nil {
			return
		}
		if got.Epoch == "" || got.Revision < 0 || got.Lease < 0 || got.Lease.Milliseconds() > maxLeaseMS {
			t.Fatalf("%+v", got)
		}
		last := after
		for _, c := range got.List {
			if c.Revision < last || c.Revision <= after || c.Revision > got.Revision || c.Account != "" && c.Digest != (credential.Digest{}) {
				t.Fatalf("%+v in %+v", c, got)
			}
			last = c.Revision
		}
	})
}

func FuzzGone(f *testing.F) {
	f.Add([]byte(`{"epoch":"two","revision":3}`))
	f.Add([]byte(`{"epoch":"","revision":-1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if got, err := decodeGone(body); err == nil && (got.Epoch == "" || got.Revision < 0) {
			t.Fatalf("%+v", got)
		}
	})
}
