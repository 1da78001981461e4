package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"
)

const (
	own           = "/api/v1/me/keys"
	withRead      = "scopes: {\"chat:companion\": {granted_by: operator}, read: {granted_by: owner}}\n"
	onlyOperators = "Scope is granted by operators only: chat:companion"
)

// owners is the owners' socket of a running keyd.
type owners struct {
	*process
	socket string
}

func ownersOf(p *process, config string) owners {
	return owners{p, filepath.Join(filepath.Dir(config), "owners.sock")}
}

// raw sends bytes and returns what comes back, whatever HTTP thinks of them.
func (o owners) raw(request string) (int, string) {
	o.t.Helper()
	conn, err := net.Dial("unix", o.socket)
	if err != nil {
		o.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	go func() { _, _ = io.WriteString(conn, request) }() // the answer may come before its end
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		o.t.Fatalf("%.200q: %v", request, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// envoys are the headers that Envoy sets for a session of the account.
func envoys(account string) string {
	return "x-phantom-account-id: " + account + "\r\nx-phantom-principal: session\r\nx-phantom-credential-id: ses_1\r\nx-phantom-scopes: chat:companion\r\n"
}

const asJSON = "Content-Type: application/json\r\n"

func message(method, target, headers, body string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: keyd\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s", method, target, headers, len(body), body)
}

// do asks as Envoy does for a session of the account a.
func (o owners) do(method, target, body string) (int, map[string]any) {
	o.t.Helper()
	status, raw := o.raw(message(method, target, envoys("a")+asJSON, body))
	var v map[string]any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		o.t.Errorf("%s %s: %d %q", method, target, status, raw)
	}
	return status, v
}

// truth is all that operators and sidecars can see of two accounts.
func (p *process) truth() string {
	p.t.Helper()
	var all strings.Builder
	for _, path := range []string{"/v1/accounts", "/v1/accounts/a/keys", "/v1/accounts/b/keys", "/v1/audit?limit=1000"} {
		_, _ = fmt.Fprintln(&all, p.operator("GET", path, ""))
	}
	_, head := p.poll(-1, "", 0)
	_, _ = fmt.Fprintln(&all, head["epoch"], head["revision"])
	return all.String()
}

// attempt is one way to come by a scope that only operators grant, or by another's key.
type attempt struct {
	request string
	status  int
	says    string // part of the message
}

// disguises are ways to write the scope that are not the scope, or are it in disguise.
var disguises = map[string]string{
	`["chat:companion"]`: onlyOperators, `["read","chat:companion"]`: onlyOperators, `["chat\u003acompanion"]`: onlyOperators,
	`["CHAT:COMPANION"]`: "scopes", `["Chat:Companion"]`: "scopes", `["chat:companion "]`: "scopes", `[" chat:companion"]`: "scopes",
	`["chat:companion\t"]`: "scopes", `["chat:companion\u0000"]`: "scopes", `["chat:companion\n"]`: "scopes", `["chat:companion\u00a0"]`: "scopes",
	`["chat:companion chat:x"]`: "scopes", `["read chat:companion"]`: "scopes", `["read,chat:companion"]`: "scopes", `["read;chat:companion"]`: "scopes",
	`["ｃｈａｔ：ｃｏｍｐａｎｉｏｎ"]`: "scopes", `["chat：companion"]`: "scopes", `["chat\ufe55companion"]`: "scopes", `["chat\u2236companion"]`: "scopes",
	`["chat:companio\u0578"]`: "scopes", `["сhat:companion"]`: "scopes", `["chat:compani\u1d0fn"]`: "scopes", `["ℂhat:companion"]`: "scopes",
	`["chat\u200b:companion"]`: "scopes", `["\ufeffchat:companion"]`: "scopes", `["chat:com\u00adpanion"]`: "scopes", `["chat:companion\u200d"]`: "scopes",
	`["chat:companion\u0301"]`: "scopes", `["\u202echat:companion"]`: "scopes", `["chat:*"]`: "scopes", `["*"]`: "scopes", `["chat"]`: "scopes", `[""]`: "scopes",
	`[["chat:companion"]]`: "scopes", `[{"name":"chat:companion"}]`: "scopes", `{"0":"chat:companion"}`: "scopes", `"chat:companion"`: "scopes", `[null]`: "scopes",
	`[true]`: "scopes", `true`: "scopes", `1`: "scopes", `["chat%3Acompanion"]`: "scopes",
}

func attempts(own1, foreign, session string) map[string]attempt {
	e := envoys("a")
	post := func(target, headers, body string, status int, says string) attempt {
		return attempt{message("POST", target, headers, body), status, says}
	}
	all := map[string]attempt{}
	for scopes, says := range disguises {
		status := 400
		if says == onlyOperators {
			status = 403
		}
		all["mint with "+scopes] = post(own, e+asJSON, `{"label":"x","scopes":`+scopes+`}`, status, says)
		all["roll with "+scopes] = post(own+"/"+own1+"/roll", e+asJSON, `{"scopes":`+scopes+`}`, 400, "scopes")
	}
	const bad = `{"label":"x","scopes":["chat:companion"]}`
	for name, body := range map[string]string{
		"a field twice":          `{"label":"x","scopes":["read"],"scopes":["chat:companion"]}`,
		"a field twice, escaped": `{"label":"x","scopes":["read"],"\u0073copes":["chat:companion"]}`,
		"Scopes":                 `{"label":"x","Scopes":["chat:companion"]}`,
		"SCOPES":                 `{"label":"x","scopes":["read"],"SCOPES":["chat:companion"]}`,
		"the long s":             `{"label":"x","ſcopes":["chat:companion"]}`,
		"scope":                  `{"label":"x","scope":"chat:companion"}`,
		"scopes[]":               `{"label":"x","scopes[]":"chat:companion"}`,
		"a prototype":            `{"label":"x","__proto__":{"scopes":["chat:companion"]}}`,
		"a nested key":           `{"label":"x","key":{"scopes":["chat:companion"]}}`,
		"an account":             `{"label":"x","account":"b"}`,
		"account_id":             `{"label":"x","account_id":"b"}`,
		"an id":                  `{"label":"x","id":"key_mine"}`,
		"an actor":               `{"label":"x","actor":"operator:alice"}`,
		"created_by":             `{"label":"x","created_by":"operator:alice"}`,
		"granted_by":             `{"label":"x","granted_by":"operator"}`,
		"principal":              `{"label":"x","principal":"operator"}`,
		"a digest":               `{"label":"x","sha256":"` + strings.Repeat("ab", 32) + `"}`,
		"a limit":                `{"label":"x","limit":1000000}`,
		"two objects":            `{"label":"x"}` + bad,
		"two objects in lines":   `{"label":"x"}` + "\n" + bad,
		"a list of objects":      `[` + bad + `]`,
		"a BOM":                  "\ufeff" + bad,
		"UTF-16":                 toUTF16(bad),
		"a comment":              `{"label":"x",/*"*/"scopes":["chat:companion"]/*"*/}`,
		"single quotes":          `{'label':'x','scopes':['chat:companion']}`,
		"a trailing comma":       `{"label":"x","scopes":["chat:companion"],}`,
		"NaN":                    `{"label":"x","expires_at":NaN}`,
		"nothing":                ``,
	} {
		all["body with "+name] = post(own, e+asJSON, body, 400, "")
		if !strings.HasPrefix(name, "nothing") {
			all["roll's body with "+name] = post(own+"/"+own1+"/roll", e+asJSON, body, 400, "")
		}
	}
	for _, ct := range []string{
		"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp", "application/merge-patch+json",
		"application/x-ndjson", "application/json, text/plain", "text/json", "application/yaml",
	} {
		header := "Content-Type: " + ct + "\r\n"
		if ct == "" {
			header = ""
		}
		all["content-type "+ct] = post(own, e+header, bad, 415, "application/json")
		all["content-type "+ct+", urlencoded"] = post(own, e+header, "label=x&scopes=chat%3Acompanion", 415, "application/json")
	}
	all["content-type of UTF-16"] = post(own, e+"Content-Type: application/json; charset=utf-16\r\n", toUTF16(bad), 400, "")
	all["content-encoding"] = post(own, e+asJSON+"Content-Encoding: gzip\r\n", bad, 403, onlyOperators)
	for _, h := range []string{
		"X-HTTP-Method-Override: PUT", "X-Method-Override: PUT", "X-HTTP-Method: PUT", "X-Original-URL: /v1/accounts/a/keys", "X-Rewrite-URL: /v1/accounts/a/keys",
		"X-Forwarded-Prefix: /v1", "Authorization: Bearer " + aliceToken, "x-phantom-scopes: chat:companion", "x-phantom-actor: operator:alice",
		"x-phantom-account: b", "x-phantom-operator: alice", "X_Phantom_Account_Id: b",
	} {
		all["mint with "+h] = post(own, e+h+"\r\n"+asJSON, bad, 403, onlyOperators)
	}
	for _, q := range []string{"scopes=chat:companion", "scope=chat:companion", "account=b", "_method=PUT", "granted_by=owner", "limit=5", "wait_ms=0&wait_ms=0"} {
		all["mint?"+q] = post(own+"?"+q, e+asJSON, `{"label":"x"}`, 400, "")
		all["roll?"+q] = post(own+"/"+own1+"/roll?"+q, e, "", 400, "")
	}
	otherPaths(all, e, own1, foreign, session)
	otherIdentities(all, bad)
	return all
}

// otherPaths are the operators' and the sidecars' operations, asked for on the owners' side, and
// another account's things.
func otherPaths(all map[string]attempt, e, own1, foreign, session string) {
	const digest = `{"label":"x","scopes":["chat:companion"],"sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`
	for _, r := range []struct {
		method, target, body string
		status               int
	}{
		{"PUT", own + "/" + own1 + "/scopes/chat:companion", "", 404},
		{"PUT", own + "/" + own1 + "/scopes/chat%3Acompanion", "", 404},
		{"PUT", own + "/" + own1 + "/scopes", `["chat:companion"]`, 404},
		{"POST", own + "/" + own1 + "/scopes/chat:companion", "", 404},
		{"PUT", own + "/" + own1, `{"scopes":["chat:companion"]}`, 405},
		{"PATCH", own + "/" + own1, `{"scopes":["chat:companion"]}`, 405},
		{"POST", own + "/" + own1, `{"scopes":["chat:companion"]}`, 405},
		{"PATCH", own, `{"scopes":["chat:companion"]}`, 405},
		{"POST", own + "/import", digest, 405},
		{"PUT", own + "/import", digest, 405},
		{"POST", own + "/" + own1 + "/import", digest, 404},
		{"POST", own + "/" + own1 + "/grant", `{"scope":"chat:companion"}`, 404},
		{"POST", own + "/" + own1 + "/roll/", ``, 404},
		{"POST", own + "/" + own1 + "%2froll", ``, 405},
		{"POST", own + "/" + own1 + "/%72oll", `{"scopes":["chat:companion"]}`, 400},
		{"POST", own + "/" + own1 + "%2F..%2F..%2Fkeys", digest, 405},
		{"PUT", "/v1/keys/" + own1 + "/scopes/chat:companion", "", 404},
		{"POST", "/v1/accounts/a/keys", `{"label":"x","scopes":["chat:companion"]}`, 404},
		{"POST", "/v1/accounts/a/keys/import", digest, 404},
		{"POST", "/v1/keys/import", digest, 404},
		{"POST", "/v1/accounts/a/sessions", "", 404},
		{"POST", "/v1/keys/" + foreign + "/revoke", "", 404},
		{"POST", "/v1/accounts/b/terminate", "", 404},
		{"DELETE", "/v1/sessions/" + session, "", 404},
		{"POST", "/v1/usage", `{"sidecar":"s","used":[]}`, 404},
		{"POST", "/v1/changes", `{"sidecar":"s","after":-1}`, 404},
		{"POST", "//api/v1/me/keys", digest, 404},
		{"POST", "/api/v1/me//keys", digest, 404},
		{"POST", "/api/v1/me/../me/keys", digest, 404},
		{"PUT", "/api/v1/me/keys/../../../../v1/keys/" + own1 + "/scopes/chat:companion", "", 404},
		{"PUT", "/api/v1/me/keys/..%2f..%2f..%2f..%2fv1%2fkeys%2f" + own1 + "%2fscopes%2fchat:companion", "", 405},
		{"POST", "/api/v1/me/keys;scopes=chat:companion", `{"label":"x"}`, 404},
		{"POST", "/API/v1/me/keys", `{"label":"x"}`, 404},
		{"POST", "/api/v1/me/keys%00", `{"label":"x"}`, 404},
		{"POST", "http://operators/v1/accounts/a/keys", `{"label":"x"}`, 404},
		{"FROB", own, `{"label":"x"}`, 405},
		{"DELETE", own, "", 405},
		{"DELETE", own + "/" + foreign, "", 404},
		{"DELETE", own + "/" + foreign + "?account=b", "", 400},
		{"DELETE", own + "/" + foreign, `{"account":"b"}`, 400},
		{"POST", own + "/" + foreign + "/roll", "", 404},
		{"POST", own + "/" + foreign + "/roll", `{"grace_seconds":60}`, 404},
		{"DELETE", own + "/" + own1 + "%2f..%2f" + foreign, "", 404},
		{"DELETE", own + "/" + session, "", 404},
		{"GET", own + "/" + foreign + "/usage", "", 404},
		{"GET", own + "/" + own1, "", 405},
	} {
		headers := e
		if r.body != "" {
			headers += asJSON
		}
		all[r.method+" "+r.target+" "+r.body] = attempt{message(r.method, r.target, headers, r.body), r.status, ""}
	}
}

// otherIdentities are requests that did not come through Envoy, or not as a session.
func otherIdentities(all map[string]attempt, bad string) {
	const session, account = "x-phantom-principal: session\r\n", "x-phantom-account-id: a\r\n"
	for _, h := range []string{
		"", session, account, account + "x-phantom-principal: key\r\n", account + "x-phantom-principal: \r\n", account + "x-phantom-principal: Session\r\n",
		account + "x-phantom-principal: session, key\r\n", account + "x-phantom-principal: operator\r\n", account + session + session,
		account + session + "x-phantom-principal: key\r\n", account + "x-phantom-principal: key\r\n" + session, account + account + session,
		account + "x-phantom-account-id: b\r\n" + session, "x-phantom-account-id: a,b\r\n" + session, "x-phantom-account-id: \r\n" + session,
		"x-phantom-account-id: *\r\n" + session, "x-phantom-account-id: a/../b\r\n" + session, "x_phantom_account_id: a\r\nx_phantom_principal: session\r\n",
		"x-phantom-account-id: ａ\r\n" + session, "Cookie: phantom_session=phs_x\r\n", "Authorization: Bearer " + aliceToken + "\r\n",
		"Connection: x-phantom-principal\r\n" + account,
	} {
		for _, body := range []string{`{"label":"x"}`, bad} {
			all["as "+h+body] = attempt{message("POST", own, h+asJSON, body), 403, ""}
		}
	}
	// In a trailer they are no headers.
	chunked := "Transfer-Encoding: chunked\r\nTrailer: x-phantom-principal, x-phantom-account-id\r\n"
	all["in the trailer"] = attempt{fmt.Sprintf("POST %s HTTP/1.1\r\nHost: keyd\r\nConnection: close\r\n%s%s\r\n%x\r\n%s\r\n0\r\n%s%s\r\n",
		own, asJSON, chunked, len(`{"label":"x"}`), `{"label":"x"}`, account, session), 403, ""}
}

func toUTF16(s string) string {
	out := "\xff\xfe"
	for _, u := range utf16.Encode([]rune(s)) {
		out += string([]byte{byte(u), byte(u >> 8)})
	}
	return out
}

// Against a running keyd, on each engine: whatever an owner sends, he does not come by what
// only operators grant, nor by another's key, and what is refused has changed nothing.
func TestOwnersCannotHelpThemselves(t *testing.T) {
	onEachEngine(t, withRead, func(t *testing.T, config string) {
		p := launch(t, config)
		o := ownersOf(p, config)
		for _, account := range []string{"a", "b"} {
			p.operator("POST", "/v1/accounts", `{"id":"`+account+`","name":"Ann"}`)
		}
		_, minted := o.do("POST", own, `{"label":"mine","scopes":["read"]}`)
		own1 := minted["key"].(map[string]any)["id"].(string)
		foreign := p.operator("POST", "/v1/accounts/b/keys", `{"label":"x","scopes":["chat:companion"]}`)["key"].(map[string]any)["id"].(string)
		session := p.operator("POST", "/v1/accounts/a/sessions", "")["session"].(map[string]any)["id"].(string)
		before := p.truth()
		bodies := map[string]bool{} // of 404 for another's key, and for one that nobody has
		for name, try := range attempts(own1, foreign, session) {
			status, body := o.raw(try.request)
			var e struct {
				Error, Message string
				StatusCode     int
			}
			if err := json.Unmarshal([]byte(body), &e); err != nil || status != try.status || e.StatusCode != status || !strings.Contains(e.Message, try.says) {
				t.Errorf("%s: %d %s, want %d and %q", name, status, body, try.status, try.says)
			}
			if after := p.truth(); after != before {
				t.Fatalf("%s: before\n%s\nafter\n%s", name, before, after)
			}
		}
		for _, id := range []string{foreign, "key_nobody", strings.Repeat("x", 64)} {
			for _, r := range [][2]string{{"DELETE", own + "/" + id}, {"POST", own + "/" + id + "/roll"}, {"GET", own + "/" + id + "/usage"}} {
				_, body := o.raw(message(r[0], r[1], envoys("a"), ""))
				bodies[body] = true
			}
		}
		if len(bodies) != 1 {
			t.Errorf("another's key is told from one that nobody has: %v", bodies)
		}
		// The table's good neighbours: it is not refused for another reason.
		if status, v := o.do("POST", own, `{"label":"x","scopes":["read"]}`); status != 201 {
			t.Errorf("a good mint: %d %v", status, v)
		}
		if status, v := o.do("POST", own+"/"+own1+"/%72oll", `{}`); status != 201 {
			t.Errorf("a good roll: %d %v", status, v)
		}
	})
}

// Of those who mint the last key at once one gets it; what is revoked or expired leaves room,
// and a roll needs none.
func TestOwnersLimit(t *testing.T) {
	onEachEngine(t, withRead, func(t *testing.T, config string) {
		const limit = 5
		replaceIn(t, config, "keys_per_account: 100", fmt.Sprint("keys_per_account: ", limit))
		p := launch(t, config)
		o := ownersOf(p, config)
		p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
		ids := map[string]bool{}
		mint := func(body string) int {
			status, v := o.do("POST", own, body)
			if status == 201 {
				ids[v["key"].(map[string]any)["id"].(string)] = true
			}
			return status
		}
		for range limit - 1 {
			if got := mint(`{"label":"x"}`); got != 201 {
				t.Fatal(got)
			}
		}
		for range 3 { // rounds, each with one place
			if made := o.atOnce(8, http.MethodPost, own, `{"label":"x"}`); len(made) != 1 {
				t.Fatalf("%d of 8 got the last place", len(made))
			} else if status, _ := o.do("DELETE", own+"/"+made[0], ""); status != 200 {
				t.Fatal(status)
			}
		}
		soon := time.Now().Add(2 * time.Second)
		if got := mint(`{"label":"x","expires_at":"` + soon.UTC().Format(time.RFC3339Nano) + `"}`); got != 201 {
			t.Fatal(got)
		}
		if got := mint(`{"label":"x"}`); got != 409 {
			t.Errorf("beyond the limit: %d", got)
		}
		for id := range ids {
			if status, v := o.do("POST", own+"/"+id+"/roll", ""); status != 201 {
				t.Errorf("a roll at the limit: %d %v", status, v)
			}
			break
		}
		for mint(`{"label":"x"}`) == 409 {
			if time.Now().After(soon.Add(5 * time.Second)) {
				t.Fatal("a key that has expired takes a place")
			}
			<-time.After(50 * time.Millisecond)
		}
		if time.Now().Before(soon) {
			t.Error("there was room before the key expired")
		}
		if got := mint(`{"label":"x"}`); got != 409 {
			t.Errorf("beyond the limit again: %d", got)
		}
	})
}

// atOnce sends the request so many times at once, and returns the ids of the keys that were made.
func (o owners) atOnce(n int, method, target, body string) (made []string) {
	var mu sync.Mutex
	var work sync.WaitGroup
	for range n {
		work.Go(func() {
			status, v := o.do(method, target, body)
			switch status {
			case 201:
				mu.Lock()
				defer mu.Unlock()
				made = append(made, v["key"].(map[string]any)["id"].(string))
			case 409:
			default:
				o.t.Errorf("%d %v", status, v)
			}
		})
	}
	work.Wait()
	return made
}
