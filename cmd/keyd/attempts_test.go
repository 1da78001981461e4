package main

import (
	"fmt"
	"strings"
	"unicode/utf16"
)

// attempt is a request for a scope that only operators grant, or for another account's key.
type attempt struct {
	request string
	status  int
	message string // part of the message
}

// spellings are the scope in JSON and invalid variants of it, each with part of the error message.
var spellings = map[string]string{
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

// attempts returns requests that must all be rejected.
func attempts(own1, othersKey, session string) map[string]attempt {
	e := envoyHeaders("a")
	post := func(target, headers, body string, status int, message string) attempt {
		return attempt{rawRequest("POST", target, headers, body), status, message}
	}
	all := map[string]attempt{}
	for scopes, message := range spellings {
		status := 400
		if message == onlyOperators {
			status = 403
		}
		all["mint with "+scopes] = post(ownKeys, e+asJSON, `{"label":"x","scopes":`+scopes+`}`, status, message)
		all["roll with "+scopes] = post(ownKeys+"/"+own1+"/roll", e+asJSON, `{"scopes":`+scopes+`}`, 400, "scopes")
	}
	const bad = `{"label":"x","scopes":["chat:companion"]}`
	for name, body := range map[string]string{
		"repeated field":          `{"label":"x","scopes":["read"],"scopes":["chat:companion"]}`,
		"repeated field, escaped": `{"label":"x","scopes":["read"],"\u0073copes":["chat:companion"]}`,
		"Scopes":                  `{"label":"x","Scopes":["chat:companion"]}`,
		"SCOPES":                  `{"label":"x","scopes":["read"],"SCOPES":["chat:companion"]}`,
		"long s":                  `{"label":"x","ſcopes":["chat:companion"]}`,
		"scope":                   `{"label":"x","scope":"chat:companion"}`,
		"scopes[]":                `{"label":"x","scopes[]":"chat:companion"}`,
		"prototype":               `{"label":"x","__proto__":{"scopes":["chat:companion"]}}`,
		"nested key":              `{"label":"x","key":{"scopes":["chat:companion"]}}`,
		"account":                 `{"label":"x","account":"b"}`,
		"account_id":              `{"label":"x","account_id":"b"}`,
		"id":                      `{"label":"x","id":"key_mine"}`,
		"actor":                   `{"label":"x","actor":"operator:alice"}`,
		"created_by":              `{"label":"x","created_by":"operator:alice"}`,
		"granted_by":              `{"label":"x","granted_by":"operator"}`,
		"principal":               `{"label":"x","principal":"operator"}`,
		"digest":                  `{"label":"x","sha256":"` + strings.Repeat("ab", 32) + `"}`,
		"limit":                   `{"label":"x","limit":1000000}`,
		"two objects":             `{"label":"x"}` + bad,
		"two objects in lines":    `{"label":"x"}` + "\n" + bad,
		"list of objects":         `[` + bad + `]`,
		"BOM":                     "\ufeff" + bad,
		"UTF-16":                  toUTF16(bad),
		"comment":                 `{"label":"x",/*"*/"scopes":["chat:companion"]/*"*/}`,
		"single quotes":           `{'label':'x','scopes':['chat:companion']}`,
		"trailing comma":          `{"label":"x","scopes":["chat:companion"],}`,
		"NaN":                     `{"label":"x","expires_at":NaN}`,
		"nothing":                 ``,
	} {
		all["body with "+name] = post(ownKeys, e+asJSON, body, 400, "")
		if !strings.HasPrefix(name, "nothing") {
			all["roll's body with "+name] = post(ownKeys+"/"+own1+"/roll", e+asJSON, body, 400, "")
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
		all["content-type "+ct] = post(ownKeys, e+header, bad, 415, "application/json")
		all["content-type "+ct+", urlencoded"] = post(ownKeys, e+header, "label=x&scopes=chat%3Acompanion", 415, "application/json")
	}
	all["content-type of UTF-16"] = post(ownKeys, e+"Content-Type: application/json; charset=utf-16\r\n", toUTF16(bad), 400, "")
	all["content-encoding"] = post(ownKeys, e+asJSON+"Content-Encoding: gzip\r\n", bad, 403, onlyOperators)
	for _, h := range []string{
		"X-HTTP-Method-Override: PUT", "X-Method-Override: PUT", "X-HTTP-Method: PUT", "X-Original-URL: /v1/accounts/a/keys", "X-Rewrite-URL: /v1/accounts/a/keys",
		"X-Forwarded-Prefix: /v1", "Authorization: Bearer " + aliceToken, "x-phantom-scopes: chat:companion", "x-phantom-actor: operator:alice",
		"x-phantom-account: b", "x-phantom-operator: alice", "X_Phantom_Account_Id: b",
	} {
		all["mint with "+h] = post(ownKeys, e+h+"\r\n"+asJSON, bad, 403, onlyOperators)
	}
	for _, q := range []string{"scopes=chat:companion", "scope=chat:companion", "account=b", "_method=PUT", "granted_by=owner", "limit=5", "wait_ms=0&wait_ms=0"} {
		all["mint?"+q] = post(ownKeys+"?"+q, e+asJSON, `{"label":"x"}`, 400, "")
		all["roll?"+q] = post(ownKeys+"/"+own1+"/roll?"+q, e, "", 400, "")
	}
	otherPaths(all, e, own1, othersKey, session)
	otherIdentities(all, bad)
	return all
}

// otherPaths adds operations of operators and sidecars on the owners' side, and requests for objects of another account.
func otherPaths(all map[string]attempt, e, own1, othersKey, session string) {
	const digest = `{"label":"x","scopes":["chat:companion"],"sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`
	for _, r := range []struct {
		method, target, body string
		status               int
	}{
		{"PUT", ownKeys + "/" + own1 + "/scopes/chat:companion", "", 404},
		{"PUT", ownKeys + "/" + own1 + "/scopes/chat%3Acompanion", "", 404},
		{"PUT", ownKeys + "/" + own1 + "/scopes", `["chat:companion"]`, 404},
		{"POST", ownKeys + "/" + own1 + "/scopes/chat:companion", "", 404},
		{"PUT", ownKeys + "/" + own1, `{"scopes":["chat:companion"]}`, 405},
		{"PATCH", ownKeys + "/" + own1, `{"scopes":["chat:companion"]}`, 405},
		{"POST", ownKeys + "/" + own1, `{"scopes":["chat:companion"]}`, 405},
		{"PATCH", ownKeys, `{"scopes":["chat:companion"]}`, 405},
		{"POST", ownKeys + "/import", digest, 405},
		{"PUT", ownKeys + "/import", digest, 405},
		{"POST", ownKeys + "/" + own1 + "/import", digest, 404},
		{"POST", ownKeys + "/" + own1 + "/grant", `{"scope":"chat:companion"}`, 404},
		{"POST", ownKeys + "/" + own1 + "/roll/", ``, 404},
		{"POST", ownKeys + "/" + own1 + "%2froll", ``, 405},
		{"POST", ownKeys + "/" + own1 + "/%72oll", `{"scopes":["chat:companion"]}`, 400},
		{"POST", ownKeys + "/" + own1 + "%2F..%2F..%2Fkeys", digest, 405},
		{"PUT", "/v1/keys/" + own1 + "/scopes/chat:companion", "", 404},
		{"POST", "/v1/accounts/a/keys", `{"label":"x","scopes":["chat:companion"]}`, 404},
		{"POST", "/v1/accounts/a/keys/import", digest, 404},
		{"POST", "/v1/keys/import", digest, 404},
		{"POST", "/v1/accounts/a/sessions", "", 404},
		{"POST", "/v1/keys/" + othersKey + "/revoke", "", 404},
		{"POST", "/v1/accounts/b/terminate", "", 404},
		{"DELETE", "/v1/sessions/" + session, "", 404},
		{"POST", "/v1/usage", `{"sidecar":"s","used":[]}`, 404},
		{"POST", "/v1/changes", `{"sidecar":"s","poll":1,"after":-1}`, 404},
		{"POST", "//api/v1/me/keys", digest, 404},
		{"POST", "/api/v1/me//keys", digest, 404},
		{"POST", "/api/v1/me/../me/keys", digest, 404},
		{"PUT", "/api/v1/me/keys/../../../../v1/keys/" + own1 + "/scopes/chat:companion", "", 404},
		{"PUT", "/api/v1/me/keys/..%2f..%2f..%2f..%2fv1%2fkeys%2f" + own1 + "%2fscopes%2fchat:companion", "", 405},
		{"POST", "/api/v1/me/keys;scopes=chat:companion", `{"label":"x"}`, 404},
		{"POST", "/API/v1/me/keys", `{"label":"x"}`, 404},
		{"POST", "/api/v1/me/keys%00", `{"label":"x"}`, 404},
		{"POST", "http://operators/v1/accounts/a/keys", `{"label":"x"}`, 404},
		{"FROB", ownKeys, `{"label":"x"}`, 405},
		{"DELETE", ownKeys, "", 405},
		{"DELETE", ownKeys + "/" + othersKey, "", 404},
		{"DELETE", ownKeys + "/" + othersKey + "?account=b", "", 400},
		{"DELETE", ownKeys + "/" + othersKey, `{"account":"b"}`, 400},
		{"POST", ownKeys + "/" + othersKey + "/roll", "", 404},
		{"POST", ownKeys + "/" + othersKey + "/roll", `{"grace_seconds":60}`, 404},
		{"DELETE", ownKeys + "/" + own1 + "%2f..%2f" + othersKey, "", 404},
		{"DELETE", ownKeys + "/" + session, "", 404},
		{"GET", ownKeys + "/" + othersKey + "/usage", "", 404},
		{"GET", ownKeys + "/" + own1, "", 405},
	} {
		headers := e
		if r.body != "" {
			headers += asJSON
		}
		all[r.method+" "+r.target+" "+r.body] = attempt{rawRequest(r.method, r.target, headers, r.body), r.status, ""}
	}
}

// otherIdentities adds requests without the headers that Envoy sets for a session.
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
			all["as "+h+body] = attempt{rawRequest("POST", ownKeys, h+asJSON, body), 403, ""}
		}
	}
	// Trailers are not headers.
	chunked := "Transfer-Encoding: chunked\r\nTrailer: x-phantom-principal, x-phantom-account-id\r\n"
	all["in the trailer"] = attempt{fmt.Sprintf("POST %s HTTP/1.1\r\nHost: keyd\r\nConnection: close\r\n%s%s\r\n%x\r\n%s\r\n0\r\n%s%s\r\n",
		ownKeys, asJSON, chunked, len(`{"label":"x"}`), `{"label":"x"}`, account, session), 403, ""}
}

func toUTF16(s string) string {
	out := "\xff\xfe"
	for _, u := range utf16.Encode([]rune(s)) {
		out += string([]byte{byte(u), byte(u >> 8)})
	}
	return out
}
