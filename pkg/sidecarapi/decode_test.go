package sidecarapi

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func digest(name string) credential.Digest { return credential.NewSecret(name).Digest() }

const goodFacts = `"found":true,"kind":"key","id":"key_1","state":"active","expires_at":null,"scopes":["b","a"],"account":{"id":"acc_1","state":"active"}`

func goodRecord() credential.Record {
	return credential.Record{
		Kind: credential.Key, ID: "key_1", State: credential.Active, Scopes: credential.NewScopes("a", "b"),
		Account: credential.Account{ID: "acc_1", State: credential.Active},
	}
}

// resolveBody makes a response of resolve with these results for the digests a, b, ….
func resolveBody(results ...string) string {
	for i, fields := range results {
		results[i] = fmt.Sprintf(`{"sha256":%q,%s}`, digest(string(rune('a'+i))).Hex(), fields)
	}
	return `{"epoch":"one","revision":7,"credentials":[` + strings.Join(results, ",") + `]}`
}

func edit(old, new string) string { return strings.Replace(goodFacts, old, new, 1) }

func TestInvalidResultMakesOnlyThatResultUnusable(t *testing.T) {
	expiring := goodRecord()
	expiring.ExpiresAt = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	ended := goodRecord()
	ended.Kind, ended.State, ended.Account.State, ended.Scopes = credential.Session, credential.Revoked, credential.Terminated, credential.NewScopes()
	for _, tt := range []struct {
		fields string
		want   Result
	}{
		{`"found":false`, Result{Outcome: NotFound}},
		{`"found":false,"kind":"key","more":1`, Result{Outcome: NotFound}},
		{goodFacts, Result{Found, goodRecord()}},
		{goodFacts + `,"plan":"gold"`, Result{Found, goodRecord()}}, // from a newer key API
		{edit(`"expires_at":null,`, ``), Result{Found, goodRecord()}},
		{edit(`null`, `"2030-01-02T03:04:05Z"`), Result{Found, expiring}},
		{edit(`null`, `"2030-01-02t03:04:05z"`), Result{Found, expiring}},
		{edit(`null`, `"2030-01-02T03:04:05,0Z"`), Result{}},
		{edit(`null`, `"2030-01-02T03:04:05+24:00"`), Result{}},
		{
			`"found":true,"kind":"session","id":"key_1","state":"revoked","scopes":[],"account":{"id":"acc_1","state":"terminated"}`,
			Result{Found, ended},
		},

		{`"found":null`, Result{}},
		{`"found":"true"`, Result{}},
		{`"found":1`, Result{}},
		{`"kind":"key"`, Result{}},
		{`"Found":false`, Result{}},
		{`"FOUND":true,` + goodFacts[len(`"found":true,`):], Result{}},
		{edit(`"kind":"key",`, ``), Result{}},
		{edit(`"kind":"key"`, `"kind":"Key"`), Result{}},
		{edit(`"kind":"key"`, `"kind":"robot"`), Result{}},
		{edit(`"kind":"key"`, `"KIND":"key"`), Result{}},
		{edit(`"kind":"key"`, `"kind":null`), Result{}},
		{edit(`"id":"key_1",`, ``), Result{}},
		{edit(`"key_1"`, `""`), Result{}},
		{edit(`"key_1"`, `"key 1"`), Result{}},
		{edit(`"key_1"`, `"key\r\nx: y"`), Result{}},
		{edit(`"key_1"`, `"kéy"`), Result{}},
		{edit(`"key_1"`, `"`+strings.Repeat("k", maxID+1)+`"`), Result{}},
		{edit(`"key_1"`, `7`), Result{}},
		{edit(`"state":"active",`, ``), Result{}},
		{edit(`"state":"active"`, `"state":"suspended"`), Result{}},
		{edit(`"state":"active"`, `"state":"terminated"`), Result{}}, // an account's
		{edit(`"state":"active"`, `"state":"active","state":"active"`), Result{}},
		{edit(`"state":"active"`, `"state":"active","State":"revoked"`), Result{Found, goodRecord()}}, // an unknown member
		{edit(`null`, `"tomorrow"`), Result{}},
		{edit(`null`, `1893456000`), Result{}},
		{edit(`null`, `"0001-01-01T00:00:00Z"`), Result{}}, // the zero time means never
		{edit(`"scopes":["b","a"],`, ``), Result{}},
		{edit(`["b","a"]`, `null`), Result{}},
		{edit(`["b","a"]`, `"a"`), Result{}},
		{edit(`["b","a"]`, `["a b"]`), Result{}},
		{edit(`["b","a"]`, `[""]`), Result{}},
		{edit(`["b","a"]`, `[null]`), Result{}},
		{edit(`["b","a"]`, `["a\""]`), Result{}},
		// out of bounds
		{edit(`["b","a"]`, `[`+strings.Repeat(`"a",`, credential.MaxScopes)+`"a"]`), Result{}},
		{edit(`["b","a"]`, `["`+strings.Repeat("a", credential.MaxScopeName+1)+`"]`), Result{}},
		{edit(`key_1`, strings.Repeat("k", maxID+1)), Result{}},
		{edit(`acc_1`, strings.Repeat("a", maxID+1)), Result{}},
		{edit(`acc_1`, strings.Repeat("a", 1<<16)), Result{}},
		{edit(`{"id":"acc_1","state":"active"}`, `null`), Result{}},
		{edit(`{"id":"acc_1","state":"active"}`, `"acc_1"`), Result{}},
		{edit(`{"id":"acc_1","state":"active"}`, `{"id":"acc_1"}`), Result{}},
		{edit(`{"id":"acc_1","state":"active"}`, `{"state":"active"}`), Result{}},
		{edit(`{"id":"acc_1","state":"active"}`, `{"id":"acc_1","state":"revoked"}`), Result{}},
		{edit(`{"id":"acc_1","state":"active"}`, `{"id":"acc_1","id":"acc_2","state":"active"}`), Result{}},
	} {
		got, err := decodeResolve([]byte(resolveBody(goodFacts, tt.fields, goodFacts)), []credential.Digest{digest("a"), digest("b"), digest("c")})
		if strings.Count(tt.fields, `"state":"active","state"`)+strings.Count(tt.fields, `"id":"acc_1","id"`) > 0 {
			// Parsers differ on repeated names, so the whole response is invalid.
			if err == nil {
				t.Errorf("%s: %+v, want an error", tt.fields, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.fields, err)
			continue
		}
		want := Resolved{Epoch: "one", Revision: 7, Results: []Result{{Found, goodRecord()}, tt.want, {Found, goodRecord()}}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.fields, diff)
		}
	}
}

// A cache keeps results for hours, so they must not keep any part of the response in memory.
func TestResultsKeepNoResponse(t *testing.T) {
	const n, padding = 100, 100_000
	requested := make([]credential.Digest, n)
	items := make([]string, n)
	for i := range requested {
		requested[i] = digest(fmt.Sprint(i))
		items[i] = `{"sha256":"` + requested[i].Hex() + `",` + goodFacts + `,"new_field":"` + strings.Repeat("x", padding) + `"}`
	}
	body := []byte(`{"epoch":"one","revision":1,"credentials":[` + strings.Join(items, ",") + `]}`)
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	resolved, err := decodeResolve(body, requested)
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(body)
	if after := inUse(); after+n*padding/2 > before {
		t.Errorf("%d bytes in use, %d before with the response", after, before)
	}
	if rec := resolved.Results[n-1].Record; rec.ID != "key_1" || rec.Account.ID != "acc_1" || rec.Scopes.String() != "a b" {
		t.Errorf("%+v", rec)
	}
}

func TestInvalidResolveResponse(t *testing.T) {
	a := fmt.Sprintf(`{"sha256":%q,"found":false}`, digest("a").Hex())
	b := fmt.Sprintf(`{"sha256":%q,"found":false}`, digest("b").Hex())
	head := `"epoch":"one","revision":7`
	for _, body := range []string{
		``, `null`, `[]`, `"x"`, `{`, `{}`, `{` + head + `}`, `{` + head + `,"credentials":null}`,
		`{` + head + `,"credentials":{}}`,
		`{` + head + `,"credentials":[` + a + `]}`,
		`{` + head + `,"credentials":[` + a + `,` + b + `,` + b + `]}`,
		`{` + head + `,"credentials":[` + b + `,` + a + `]}`,
		`{` + head + `,"credentials":[` + a + `,` + a + `]}`,
		`{` + head + `,"credentials":[` + a + `,null]}`,
		`{` + head + `,"credentials":[` + a + `,{"found":false}]}`,
		`{` + head + `,"credentials":[` + a + `,` + strings.Replace(b, "sha256", "SHA256", 1) + `]}`,
		`{` + head + `,"credentials":[` + a + `,` + strings.ToUpper(b) + `]}`,
		`{` + head + `,"credentials":[` + a + `,` + b + `],"credentials":[` + a + `,` + b + `]}`,
		`{` + head + `,"credentials":[` + a + `,` + b + `]} x`,
		`{` + head + `,"credentials":[` + a + `,` + b + `]}{}`,
		`{"revision":7,"credentials":[` + a + `,` + b + `]}`,
		`{"epoch":"","revision":7,"credentials":[` + a + `,` + b + `]}`,
		`{"epoch":"` + strings.Repeat("e", maxEpoch+1) + `","revision":7,"credentials":[` + a + `,` + b + `]}`,
		`{"epoch":null,"revision":7,"credentials":[` + a + `,` + b + `]}`,
		`{"Epoch":"one","revision":7,"credentials":[` + a + `,` + b + `]}`,
		`{"epoch":"one","credentials":[` + a + `,` + b + `]}`,
		`{"epoch":"one","revision":-1,"credentials":[` + a + `,` + b + `]}`,
		`{"epoch":"one","revision":7.5,"credentials":[` + a + `,` + b + `]}`,
		`{"epoch":"one","revision":"7","credentials":[` + a + `,` + b + `]}`,
		`{"epoch":"one","revision":99999999999999999999,"credentials":[` + a + `,` + b + `]}`,
	} {
		if got, err := decodeResolve([]byte(body), []credential.Digest{digest("a"), digest("b")}); err == nil {
			t.Errorf("%s: %+v, want an error", body, got)
		} else if strings.Contains(err.Error(), digest("a").Hex()[:16]) {
			t.Errorf("error repeats the response: %v", err)
		}
	}
}

func TestDecodeChanges(t *testing.T) {
	d := digest("a")
	one := fmt.Sprintf(`{"revision":5,"credential":%q}`, d.Hex())
	ok := func(changes string) string {
		return `{"epoch":"one","revision":7,"changes":[` + changes + `],"lease_ms":15000}`
	}
	got, err := decodeChanges([]byte(ok(one+`,{"revision":7,"account":"acc_1"}`)), ChangesRequest{Epoch: "one", After: 4})
	want := Changes{
		Epoch: "one", Revision: 7, Lease: 15 * time.Second,
		List: []AppliedChange{{Revision: 5, Digest: d}, {Revision: 7, Account: "acc_1"}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	// Nothing of an account with an invalid ID is cached, so the other changes are valid.
	for _, id := range []string{"a b", strings.Repeat("a", maxID+1)} {
		got, err := decodeChanges([]byte(ok(`{"revision":6,"account":"`+id+`"},{"revision":7,"account":"acc_1"}`)), ChangesRequest{After: 4})
		if err != nil || len(got.List) != 2 || got.List[1].Account != "acc_1" {
			t.Errorf("%.20s: %+v, %v", id, got, err)
		}
	}
	// One commit may hold several changes.
	if _, err := decodeChanges([]byte(ok(one+`,`+one)), ChangesRequest{After: 4}); err != nil {
		t.Error(err)
	}
	for _, body := range []string{
		``, `null`, `{}`, ok(`null`), ok(`5`), ok(`{}`), ok(`{"revision":5}`),
		ok(strings.Replace(one, "}", `,"account":"acc_1"}`, 1)),
		ok(strings.Replace(one, "}", `,"organisation":"o"}`, 1)), // names something unknown
		ok(strings.ToUpper(one)),
		ok(`{"revision":5,"credential":"phk_"}`),
		ok(`{"revision":5,"credential":null,"account":null}`),
		ok(`{"revision":5,"account":""}`),
		ok(`{"credential":"` + d.Hex() + `"}`),
		ok(strings.Replace(one, "5", "4", 1)),                                 // already acknowledged
		ok(strings.Replace(one, "5", "8", 1)),                                 // beyond the head
		ok(`{"revision":6,"account":"a"},{"revision":5,"account":"a"}`),       // decreasing
		ok(strings.Repeat(`{"revision":5,"account":"a"},`, MaxChanges) + one), // too many
		strings.Replace(ok(one), `"lease_ms":15000`, `"lease_ms":-1`, 1),
		strings.Replace(ok(one), `"lease_ms":15000`, `"lease_ms":86400001`, 1), // more than a day
		strings.Replace(ok(one), `"lease_ms":15000`, `"lease_ms":9223372036854775807`, 1),
		strings.Replace(ok(one), `"lease_ms":15000`, `"lease_ms":null`, 1),
		strings.Replace(ok(one), `,"lease_ms":15000`, ``, 1),
		strings.Replace(ok(one), `"lease_ms"`, `"LEASE_MS"`, 1),
		strings.Replace(ok(one), `"changes"`, `"change"`, 1),
		strings.Replace(ok(one), `"epoch":"one"`, `"epoch":""`, 1),
		strings.Replace(ok(one), `"revision":7`, `"revision":-7`, 1),
		strings.Replace(ok(one), `"revision":7`, `"revision":7,"revision":7`, 1),
	} {
		if got, err := decodeChanges([]byte(body), ChangesRequest{Epoch: "one", After: 4}); err == nil {
			t.Errorf("%.200s: %+v, want an error", body, got)
		} else if strings.Contains(err.Error(), d.Hex()[:16]) {
			t.Errorf("error repeats the response: %v", err)
		}
	}
}

func TestDecodeGone(t *testing.T) {
	got, err := decodeGone([]byte(`{"epoch":"two","revision":0,"more":1}`))
	if err != nil || *got != (Gone{Epoch: "two"}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, body := range []string{
		``, `null`, `{}`, `{"epoch":"two"}`, `{"revision":1}`, `{"epoch":"","revision":1}`, `{"epoch":"two","revision":-1}`,
		`{"epoch":2,"revision":1}`, `{"Epoch":"two","revision":1}`, `{"epoch":"two","epoch":"two","revision":1}`,
	} {
		if got, err := decodeGone([]byte(body)); err == nil {
			t.Errorf("%s: %+v, want an error", body, got)
		}
	}
}

func TestCredentialOf(t *testing.T) {
	rec := goodRecord()
	rec.ExpiresAt = time.Date(2030, 1, 2, 3, 4, 5, 600, time.FixedZone("", 3600))
	c := CredentialOf(digest("a"), true, rec)
	if c.ExpiresAt == nil || !c.ExpiresAt.Equal(rec.ExpiresAt) || c.ExpiresAt.Location() != time.UTC {
		t.Errorf("expires_at %v", c.ExpiresAt)
	}
	if c := CredentialOf(digest("a"), false, rec); c.Facts != nil || c.Found {
		t.Errorf("unknown credential has facts: %+v", c)
	}
}
