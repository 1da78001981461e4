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
	status, _, body := o.exchange(request)
	return status, body
}

func (o owners) exchange(request string) (int, http.Header, string) {
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
	status, header, raw := o.exchange(message(method, target, envoys("a")+asJSON, body))
	var v map[string]any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		o.t.Errorf("%s %s: %d %q", method, target, status, raw)
	}
	r, err := http.NewRequest(method, "http://keyd"+target, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	o.described(r, body, status, header, []byte(raw))
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

// owner_limits bounds the writes of each account, also after a reload. Reads are not limited.
func TestOwnerLimits(t *testing.T) {
	config := configure(t, "")
	const wide, narrow = "owner_limits: {changes_per_minute: 60000, burst: 10000, concurrent: 100}", "owner_limits: {changes_per_minute: 1, burst: 3, concurrent: 2}"
	replaceIn(t, config, wide, narrow)
	p := launch(t, config)
	o := ownersOf(p, config)
	p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	p.operator("POST", "/v1/accounts", `{"id":"b","name":"Ben"}`)
	for _, step := range []struct {
		body   string
		status int
	}{{`{"label":"x"}`, 201}, {`{"label":"x","scopes":["chat:companion"]}`, 403}, {`{}`, 400}, {`{"label":"x"}`, 429}} {
		status, header, body := o.exchange(message("POST", own, envoys("a")+asJSON, step.body))
		if status != step.status {
			t.Fatalf("%s: %d %s, want %d", step.body, status, body, step.status)
		}
		if after := header.Get("Retry-After"); status == 429 && (!strings.HasPrefix(body, `{"error":"TOO_MANY_REQUESTS","message":"`) || after != "60") {
			t.Errorf("retry-after %q, %s", after, body)
		}
	}
	if status, _ := o.do("GET", own, ""); status != 200 {
		t.Errorf("a read: %d", status)
	}
	if status, _ := o.raw(message("POST", own, envoys("b")+asJSON, `{"label":"x"}`)); status != 201 {
		t.Errorf("another account: %d", status)
	}
	replaceIn(t, config, narrow, wide)
	p.reload(func() bool { status, _ := o.do("POST", own, `{"label":"x"}`); return status == 201 })
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
