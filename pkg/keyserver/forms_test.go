package keyserver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// An empty body, null and an empty object are the same for a request that needs no field.
func TestEmptyBodies(t *testing.T) {
	for _, body := range []string{"", "{}", "null", " null\n", "{ }"} {
		t.Run(fmt.Sprintf("%q", body), func(t *testing.T) {
			f := setUp(t)
			f.account("a")
			id, _ := f.key("a", `,"scopes":["read"]`)
			f.operator("POST", "/v1/accounts/a/terminate", body).want(200)
			f.operator("POST", "/v1/accounts/a/reinstate", body).want(200)
			session := f.operator("POST", "/v1/accounts/a/sessions", body).want(201).text("session", "id")
			f.operator("DELETE", "/v1/sessions/"+session, body).want(200)
			f.operator("PUT", "/v1/keys/"+id+"/scopes/write", body).want(200)
			f.operator("DELETE", "/v1/keys/"+id+"/scopes/write", body).want(200)
			id = f.operator("POST", "/v1/keys/"+id+"/roll", body).want(201).text("key", "id")
			f.operator("POST", "/v1/keys/"+id+"/revoke", body).want(200)
			id, _ = f.key("a", "")
			id = f.owner("a", "POST", own+"/"+id+"/roll", body).want(201).text("key", "id")
			f.owner("a", "DELETE", own+"/"+id, body).want(200)
		})
	}
	f := setUp(t)
	f.account("a")
	f.operator("POST", "/v1/accounts/a/keys", "null").rejected(400, "label is required")
	f.sidecar("/v1/resolve", "null").rejected(400, "credentials")
	f.operator("POST", "/v1/accounts/a/terminate", "nul").rejected(400, "body must be a JSON object")
	f.operator("POST", "/v1/accounts/a/terminate", "null null").rejected(400, "body must be a JSON object")
	f.operator("POST", "/v1/accounts/a/terminate", "[]").rejected(400, "body must be a JSON object")
}

// null for an optional field is the same as an absent field.
func TestNullIsAbsent(t *testing.T) {
	f := setUp(t)
	f.account("a")
	digest := strings.Repeat("ab", 32)
	f.owner("a", "POST", own, `{"label":"x","scopes":null,"expires_at":null}`).want(201)
	f.operator("POST", "/v1/accounts", `{"name":"x","id":null}`).want(201)
	id := f.operator("POST", "/v1/accounts/a/keys", `{"label":"x","scopes":null,"expires_at":null}`).want(201).text("key", "id")
	f.operator("POST", "/v1/accounts/a/keys/import", `{"label":"x","sha256":"`+digest+`","scopes":null,"expires_at":null}`).want(201)
	f.operator("POST", "/v1/accounts/a/sessions", `{"ttl_seconds":null}`).want(201)
	f.operator("POST", "/v1/keys/"+id+"/roll", `{"grace_seconds":null}`).want(201)
	if revoked := f.operator("POST", "/v1/keys/"+id+"/revoke", `{"chain":null}`).want(200); strings.Contains(revoked.raw, `"revoked":[`) {
		t.Errorf("chain null revokes a chain: %s", revoked.raw)
	}
	f.imports(`{"account":"a","label":"x","sha256":"` + strings.Repeat("cd", 32) + `","scopes":null,"expires_at":null}`).lines()
	for _, body := range []string{`{"label":null}`, `{"label":"x","scopes":[null]}`} {
		f.operator("POST", "/v1/accounts/a/keys", body).rejected(400)
	}
	f.operator("POST", "/v1/accounts/a/keys/import", `{"label":"x","sha256":null}`).rejected(400, "sha256 is required")
	r := request("POST", "/v1/usage", `{"sidecar":"s","used":[{"sha256":"`+digest+`","last_used_at":"2026-01-01T00:00:00Z","allowed":null,"denied":null}]}`)
	if got := f.sendUnchecked(sidecarsSide, r); got.status != http.StatusNoContent {
		t.Errorf("a report: %d %s", got.status, got.raw)
	}
}

// Operators may send a SHA-256 in either case. It is stored, and sent to sidecars, in lower case, the only case of
// the sidecars' protocol.
func TestDigestsInEitherCase(t *testing.T) {
	f := setUp(t)
	f.account("a")
	digest := strings.Repeat("aB", 32)
	f.operator("POST", "/v1/accounts/a/keys/import", `{"label":"x","sha256":"`+strings.ToUpper(digest)+`"}`).want(201)
	f.operator("POST", "/v1/accounts/a/keys/import", `{"label":"x","sha256":"`+digest+`"}`).rejected(409)
	other := strings.Repeat("Cd", 32)
	lines := f.imports(join(
		`{"account":"a","label":"x","sha256":"`+digest+`"}`,
		`{"account":"a","label":"x","sha256":"`+other+`"}`,
		`{"account":"a","label":"x","sha256":"`+strings.ToUpper(other)+`"}`)).lines()
	if last := lines[len(lines)-1]; last.Imported != 1 || last.Existing != 2 {
		t.Errorf("imported %+v", last)
	}
	for _, d := range []string{digest, other} {
		found := f.sidecar("/v1/resolve", `{"credentials":["`+strings.ToLower(d)+`"]}`).want(200)
		if result := found.at("credentials").([]any)[0].(map[string]any); result["found"] != true || result["sha256"] != strings.ToLower(d) {
			t.Errorf("resolve: %s", found.raw)
		}
		f.sidecar("/v1/resolve", `{"credentials":["`+strings.ToUpper(d)+`"]}`).rejected(400, "credentials[0]")
	}
}

// RFC 3339, section 5.6: "T" and "Z" may be written in lower case.
func TestTimesInEitherCase(t *testing.T) {
	f := setUp(t)
	f.account("a")
	for _, c := range []struct{ given, want string }{
		{"2999-01-31t12:00:00z", "2999-01-31T12:00:00Z"},
		{"2999-01-31T12:00:00z", "2999-01-31T12:00:00Z"},
		{"2999-01-31t12:00:00.5+02:00", "2999-01-31T10:00:00.5Z"},
		{"2999-01-31T12:00:00Z", "2999-01-31T12:00:00Z"},
		{"2999-01-31 12:00:00Z", ""},
		{"2999-01-31T1:00:00Z", ""},
		{"2999-01-31T12:00:00,5Z", ""},
		{"2999-02-30T12:00:00Z", ""},
		{"2999-01-31T12:00:00", ""},
		{"2999-01-31T12:00:00+24:00", ""},
		{"", ""},
	} {
		body := `{"label":"x","expires_at":"` + c.given + `"}`
		for _, got := range []reply{
			f.sendUnchecked(operatorsSide, request("POST", "/v1/accounts/a/keys", body)),
			f.sendUnchecked(ownersSide, request("POST", own, body)),
		} {
			if c.want == "" {
				got.rejected(400, "expires_at must be a time as in RFC 3339")
			} else if at := got.want(201).text("key", "expires_at"); at != c.want {
				t.Errorf("%q became %s, want %s", c.given, at, c.want)
			}
		}
		f.operator("POST", "/v1/accounts/a/terminate", "").want(200)
		f.operator("POST", "/v1/accounts/a/reinstate", "").want(200)
		for _, k := range f.activeKeys() {
			f.operator("POST", "/v1/keys/"+k+"/revoke", "").want(200)
		}
	}
	id, _ := f.key("a", "")
	got := f.sendUnchecked(operatorsSide, request("GET", "/v1/keys/"+id+"/usage?from=2026-01-01t00:00:00z&until=2026-02-01t00:00:00z", ""))
	got.want(200)
	got = f.sendUnchecked(sidecarsSide, request("POST", "/v1/usage", `{"sidecar":"s","used":[{"sha256":"`+strings.Repeat("a", 64)+`","last_used_at":"2026-01-01t00:00:00z"}]}`))
	got.want(204)
}

// Editors and exports write different line ends and byte order marks.
func TestImportLineEndings(t *testing.T) {
	for name, body := range map[string]string{
		"a mark":                        "\ufeff" + importing(1) + "\n" + importing(2) + "\n",
		"a mark and CRLF":               "\ufeff" + importing(1) + "\r\n" + importing(2) + "\r\n",
		"a mark alone on the line":      "\ufeff\n" + importing(1) + "\n" + importing(2) + "\n",
		"two files in one":              "\ufeff" + importing(1) + "\n\ufeff" + importing(2) + "\n",
		"CRLF and no last end":          importing(1) + "\r\n" + importing(2),
		"no last end":                   importing(1) + "\n" + importing(2),
		"blank lines":                   "\n\n" + importing(1) + "\n \t\n\r\n" + importing(2) + "\n\n",
		"a carriage return at the end":  importing(1) + "\n" + importing(2) + "\r",
		"blanks around an object":       "  " + importing(1) + "\t \n " + importing(2) + "\n",
		"a mark behind the blank lines": "\n\ufeff" + importing(1) + "\n" + importing(2) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t)
			f.account("a")
			lines := f.imports(body).lines()
			if last := lines[len(lines)-1]; last.Imported != 2 || last.Change == nil {
				t.Errorf("imported %+v", lines)
			}
		})
	}
}

// sendUnchecked is send without the comparison with the OpenAPI document, because the server accepts more forms than
// that describes.
func (f *fixture) sendUnchecked(side string, r *http.Request) reply {
	f.t.Helper()
	checked := f.handler[side]
	defer func() { f.handler[side] = checked }()
	f.handler[side] = map[string]func() http.Handler{operatorsSide: f.Operators, ownersSide: f.Owners, sidecarsSide: f.Sidecars}[side]()
	return f.send(side, r)
}

// Sidecars reject records with more or longer scopes, so they cannot be minted, imported or granted.
func TestScopeBounds(t *testing.T) {
	f := setUp(t)
	f.account("a")
	settings := testSettings()
	settings.Catalogue = Catalogue{}
	var names []string
	for i := range 65 {
		name := fmt.Sprintf("scope-%02d", i)
		settings.Catalogue[name] = ByOwner
		names = append(names, `"`+name+`"`)
	}
	f.Apply(settings)
	all, most := "["+strings.Join(names, ",")+"]", "["+strings.Join(names[:64], ",")+"]"
	twice := "[" + strings.Join(append(names[:64:64], names[:64]...), ",") + "]"
	long := `["` + strings.Repeat("x", 65) + `"]`
	digest := func(c string) string { return `"sha256":"` + strings.Repeat(c, 64) + `","label":"x","scopes":` }
	for _, send := range []func(scopes string) reply{
		func(scopes string) reply {
			return f.sendUnchecked(operatorsSide, request("POST", "/v1/accounts/a/keys", `{"label":"x","scopes":`+scopes+`}`))
		},
		func(scopes string) reply {
			return f.sendUnchecked(ownersSide, request("POST", own, `{"label":"x","scopes":`+scopes+`}`))
		},
		func(scopes string) reply {
			return f.sendUnchecked(operatorsSide, request("POST", "/v1/accounts/a/keys/import", `{`+digest("a")+scopes+`}`))
		},
		func(scopes string) reply {
			return f.sendUnchecked(operatorsSide, request("POST", importPath, `{"account":"a",`+digest("b")+scopes+`}`))
		},
	} {
		send(all).rejected(400, "scopes must be at most 64 different scopes")
		send(long).rejected(400, "scopes must have at most 64 characters each")
	}
	id := f.operator("POST", "/v1/accounts/a/keys", `{"label":"x","scopes":`+most+`}`).want(201).text("key", "id")
	f.sendUnchecked(operatorsSide, request("POST", "/v1/accounts/a/keys", `{"label":"x","scopes":`+twice+`}`)).want(201)
	f.operator("PUT", "/v1/keys/"+id+"/scopes/scope-64", "").rejected(409, "64 scopes")
	f.operator("PUT", "/v1/keys/"+id+"/scopes/scope-63", "").want(200) // it has that one
	f.operator("DELETE", "/v1/keys/"+id+"/scopes/scope-00", "").want(200)
	f.operator("PUT", "/v1/keys/"+id+"/scopes/scope-64", "").want(200)
	f.operator("PUT", "/v1/keys/"+id+"/scopes/"+strings.Repeat("x", 65), "").rejected(400, "scope must have at most 64 characters")
}
