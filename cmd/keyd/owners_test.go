package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	ownKeys       = "/api/v1/me/keys"
	withRead      = "scopes: {\"chat:companion\": {granted_by: operator}, read: {granted_by: owner}}\n"
	onlyOperators = "Scope is granted by operators only: chat:companion"
)

// owners is the owners' socket of a running keyd.
type owners struct {
	*process
	socket string
}

func ownersOf(p *process, config string) owners { return owners{p, ownersSocket(config)} }

// raw sends a request that need not be valid HTTP.
func (o owners) raw(request string) (int, string) {
	o.t.Helper()
	status, _, body := o.exchangeRaw(request)
	return status, body
}

func (o owners) exchangeRaw(request string) (int, http.Header, string) {
	o.t.Helper()
	conn, err := net.Dial("unix", o.socket)
	if err != nil {
		o.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
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
	return resp.StatusCode, resp.Header, string(body)
}

// envoyHeaders returns the headers that Envoy sets for a session of the account.
func envoyHeaders(account string) string {
	return "x-phantom-account-id: " + account + "\r\nx-phantom-principal: session\r\nx-phantom-credential-id: ses_1\r\nx-phantom-scopes: chat:companion\r\n"
}

const asJSON = "Content-Type: application/json\r\n"

func rawRequest(method, target, headers, body string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: keyd\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s", method, target, headers, len(body), body)
}

// do sends a request as Envoy does for a session of the account a.
func (o owners) do(method, target, body string) (int, object) {
	o.t.Helper()
	status, header, raw := o.exchangeRaw(rawRequest(method, target, envoyHeaders("a")+asJSON, body))
	var v object
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		o.t.Errorf("%s %s: %d %q", method, target, status, raw)
	}
	r, err := http.NewRequest(method, "http://keyd"+target, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	o.checkDocumented(r, body, status, header, []byte(raw))
	return status, v
}

// snapshotAll returns all that operators see of the accounts a and b.
func (p *process) snapshotAll() string {
	p.t.Helper()
	var all strings.Builder
	for _, path := range []string{"/v1/accounts", "/v1/accounts/a/keys", "/v1/accounts/b/keys", "/v1/audit?limit=1000"} {
		_, _ = fmt.Fprintln(&all, p.operator("GET", path, ""))
	}
	return all.String()
}

// No request of an owner grants a scope that only operators grant or reaches another account's key. Rejected requests change
// nothing.
func TestOwnersCannotHelpThemselves(t *testing.T) {
	onEachEngine(t, withRead, func(t *testing.T, config string) {
		p := launch(t, config)
		o := ownersOf(p, config)
		for _, account := range []string{"a", "b"} {
			p.account(account)
		}
		_, minted := o.do("POST", ownKeys, `{"label":"mine","scopes":["read"]}`)
		own1 := minted.object("key").text("id")
		othersKey := p.operator("POST", "/v1/accounts/b/keys", `{"label":"x","scopes":["chat:companion"]}`).object("key").text("id")
		session := p.operator("POST", "/v1/accounts/a/sessions", "").object("session").text("id")
		_, head := p.poll(-1, "", 0)
		before := p.snapshotAll()
		bodies := map[string]bool{} // of 404 for another account's key and for an unknown one
		for name, try := range attempts(own1, othersKey, session) {
			status, body := o.raw(try.request)
			var e struct {
				Error, Message string
				StatusCode     int
			}
			if err := json.Unmarshal([]byte(body), &e); err != nil || status != try.status || e.StatusCode != status || !strings.Contains(e.Message, try.message) {
				t.Errorf("%s: %d %s, want %d and %q", name, status, body, try.status, try.message)
			}
			if after := p.snapshotAll(); after != before {
				t.Fatalf("%s: before\n%s\nafter\n%s", name, before, after)
			}
		}
		if _, after := p.poll(-1, "", 0); after["revision"] != head["revision"] || after["epoch"] != head["epoch"] {
			t.Errorf("change log at %v, before at %v", after, head)
		}
		for _, id := range []string{othersKey, "key_nobody", strings.Repeat("x", 64)} {
			for _, r := range [][2]string{{"DELETE", ownKeys + "/" + id}, {"POST", ownKeys + "/" + id + "/roll"}, {"GET", ownKeys + "/" + id + "/usage"}} {
				_, body := o.raw(rawRequest(r[0], r[1], envoyHeaders("a"), ""))
				bodies[body] = true
			}
		}
		if len(bodies) != 1 {
			t.Errorf("another account's key is distinguished from an unknown one: %v", bodies)
		}
		// Valid requests are accepted.
		if status, v := o.do("POST", ownKeys, `{"label":"x","scopes":["read"]}`); status != 201 {
			t.Errorf("mint: %d %v", status, v)
		}
		if status, v := o.do("POST", ownKeys+"/"+own1+"/%72oll", `{}`); status != 201 {
			t.Errorf("roll: %d %v", status, v)
		}
	})
}

// Of concurrent mints of the last key one succeeds. Revoked and expired keys do not count, and a roll is allowed at the limit.
func TestOwnersLimit(t *testing.T) {
	onEachEngine(t, withRead, func(t *testing.T, config string) {
		const limit = 5
		replaceIn(t, config, "keys_per_account: 100", fmt.Sprint("keys_per_account: ", limit))
		p := launch(t, config)
		o := ownersOf(p, config)
		p.account("a")
		ids := map[string]bool{}
		mint := func(body string) int {
			status, v := o.do("POST", ownKeys, body)
			if status == 201 {
				ids[v.object("key").text("id")] = true
			}
			return status
		}
		for range limit - 1 {
			if got := mint(`{"label":"x"}`); got != 201 {
				t.Fatal(got)
			}
		}
		for range 3 {
			if made := o.concurrently(8, http.MethodPost, ownKeys, `{"label":"x"}`); len(made) != 1 {
				t.Fatalf("%d of 8 concurrent mints succeeded", len(made))
			} else if status, _ := o.do("DELETE", ownKeys+"/"+made[0], ""); status != 200 {
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
			if status, v := o.do("POST", ownKeys+"/"+id+"/roll", ""); status != 201 {
				t.Errorf("a roll at the limit: %d %v", status, v)
			}
			break
		}
		eventually(t, "expiry", func() error {
			if mint(`{"label":"x"}`) == 409 {
				return errors.New("the expired key counts")
			}
			return nil
		})
		if time.Now().Before(soon) {
			t.Error("a key that has not expired does not count")
		}
		if got := mint(`{"label":"x"}`); got != 409 {
			t.Errorf("beyond the limit again: %d", got)
		}
	})
}

// owner_limits applies to the writes of each account, also after a reload. Reads are not limited.
func TestOwnerLimits(t *testing.T) {
	config := configure(t, "")
	const wide, narrow = "owner_limits: {changes_per_minute: 60000, burst: 10000, concurrent: 100}", "owner_limits: {changes_per_minute: 1, burst: 3, concurrent: 2}"
	replaceIn(t, config, wide, narrow)
	p := launch(t, config)
	o := ownersOf(p, config)
	p.account("a")
	p.account("b")
	for _, step := range []struct {
		body   string
		status int
	}{{`{"label":"x"}`, 201}, {`{"label":"x","scopes":["chat:companion"]}`, 403}, {`{}`, 400}, {`{"label":"x"}`, 429}} {
		status, header, body := o.exchangeRaw(rawRequest("POST", ownKeys, envoyHeaders("a")+asJSON, step.body))
		if status != step.status {
			t.Fatalf("%s: %d %s, want %d", step.body, status, body, step.status)
		}
		if after := header.Get("Retry-After"); status == 429 && (!strings.HasPrefix(body, `{"error":"TOO_MANY_REQUESTS","message":"`) || after != "60") {
			t.Errorf("retry-after %q, %s", after, body)
		}
	}
	if status, _ := o.do("GET", ownKeys, ""); status != 200 {
		t.Errorf("read: %d", status)
	}
	if status, _ := o.raw(rawRequest("POST", ownKeys, envoyHeaders("b")+asJSON, `{"label":"x"}`)); status != 201 {
		t.Errorf("other account: %d", status)
	}
	replaceIn(t, config, narrow, wide)
	p.reload(func() error {
		if status, v := o.do("POST", ownKeys, `{"label":"x"}`); status != 201 {
			return fmt.Errorf("mint: %d %v", status, v)
		}
		return nil
	})
}

// concurrently sends n concurrent requests, and returns the ids of the new keys.
func (o owners) concurrently(n int, method, target, body string) (made []string) {
	var mu sync.Mutex
	var work sync.WaitGroup
	for range n {
		work.Go(func() {
			status, v := o.do(method, target, body)
			switch status {
			case 201:
				mu.Lock()
				defer mu.Unlock()
				made = append(made, v.object("key").text("id"))
			case 409:
			default:
				o.t.Errorf("%d %v", status, v)
			}
		})
	}
	work.Wait()
	return made
}
