package keyserver

import (
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"testing"
	"time"
)

// roll rolls a key as an operator and returns the successor's id.
func (f *fixture) roll(id, body string) string {
	f.t.Helper()
	return f.operator("POST", "/v1/keys/"+id+"/roll", body).want(201).text("key", "id")
}

// activeKeys lists the ids of the keys of account a that are not revoked and not expired.
func (f *fixture) activeKeys() (ids []string) {
	f.t.Helper()
	query := "?limit=1000"
	for {
		page := f.operator("GET", "/v1/accounts/a/keys"+query, "").want(200)
		for _, k := range page.at("keys").([]any) {
			key := k.(map[string]any)
			until, _ := key["expires_at"].(string)
			ends, err := time.Parse(time.RFC3339, until)
			if key["state"] == "active" && (err != nil || ends.After(time.Now())) {
				ids = append(ids, key["id"].(string))
			}
		}
		if page.at("next") == nil {
			return ids
		}
		query = "?limit=1000&cursor=" + page.text("next")
	}
}

func TestRollNamesTheSuccessor(t *testing.T) {
	f := setUp(t)
	f.account("a")
	first, _ := f.key("a", "")
	second := f.roll(first, `{"grace_seconds":3600}`)
	if got := f.operator("GET", "/v1/keys/"+first, "").text("key", "replaced_by"); got != second {
		t.Errorf("replaced by %s, want %s", got, second)
	}
	message := "Key has been replaced by " + second
	f.operator("POST", "/v1/keys/"+first+"/roll", `{"grace_seconds":3600}`).rejected(409, message)
	f.owner("a", "POST", own+"/"+first+"/roll", "").rejected(409, message)

	// The second roll revokes the first key. The change of its answer includes that.
	third := f.operator("POST", "/v1/keys/"+second+"/roll", `{"grace_seconds":60}`).want(201)
	if got := third.text("replaced", "id"); got != second {
		t.Errorf("replaced is %s, want %s", got, second)
	}
	newest := f.operator("GET", fmt.Sprintf("/v1/revisions/%d", third.number("change", "revision")+1), "")
	newest.rejected(404)
	like(t, f.operator("GET", "/v1/audit?limit=1", "").raw, `{"events":[{"at":TIME,"actor":"operator:alice","action":"key.roll","account":"a","key":"`+second+
		`","detail":{"grace_seconds":"60","revoked":"`+first+`","successor":"`+third.text("key", "id")+`"}}],"next":"`+
		f.operator("GET", "/v1/audit?limit=1", "").text("next")+`"}`)
	if got := fmt.Sprint(f.activeKeys()); got != fmt.Sprint([]string{second, third.text("key", "id")}) {
		t.Errorf("in force: %s", got)
	}
	// Of the reasons for a rejection, revoked comes before replaced.
	f.operator("POST", "/v1/keys/"+first+"/roll", "").rejected(409, "API key has been revoked")
}

// ownerView removes the fields of a change that only operators get.
func (r reply) ownerView() string {
	return regexp.MustCompile(`,"waiting":0|,"waiting_for":\[\]`).ReplaceAllString(r.raw, "")
}

func TestRevokeChain(t *testing.T) {
	const change = `{"revision":REV,"effective":true,"effective_by":null}`
	for name, revoke := range map[string]func(f *fixture, id string, chain bool) reply{
		"operator": func(f *fixture, id string, chain bool) reply {
			return f.operator("POST", "/v1/keys/"+id+"/revoke", fmt.Sprintf(`{"chain":%v}`, chain))
		},
		"owner": func(f *fixture, id string, chain bool) reply {
			return f.owner("a", "DELETE", fmt.Sprintf("%s/%s?chain=%v", own, id, chain), "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t)
			f.account("a")
			f.account("b")
			first, _ := f.key("a", "")
			second := f.roll(first, `{"grace_seconds":3600}`)
			alone, _ := f.key("a", "")
			other, _ := f.key("b", "")
			key := `{"id":"%s","account":"a","label":"test","hint":"HINT","scopes":[],"state":"revoked","created_at":TIME,` +
				`"created_by":"operator:alice","expires_at":%s,"revoked_at":TIME,"last_used_at":null,"replaced_by":%s}`

			done := revoke(f, first, true).want(200)
			like(t, done.ownerView(), `{"key":`+fmt.Sprintf(key, first, "TIME", `"`+second+`"`)+
				`,"revoked":["`+first+`","`+second+`"],"change":`+change+`}`)
			revision := done.number("change", "revision")
			f.operator("GET", fmt.Sprintf("/v1/revisions/%d", revision+1), "").rejected(404)
			again := revoke(f, second, true).want(200)
			like(t, again.ownerView(), `{"key":`+fmt.Sprintf(key, second, "null", "null")+`,"revoked":[],"change":`+change+`}`)
			if got := again.number("change", "revision"); got != revision {
				t.Errorf("revision %d, want %d", got, revision)
			}
			if got := fmt.Sprint(f.activeKeys()); got != fmt.Sprint([]string{alone}) {
				t.Errorf("in force: %s", got)
			}
			for _, id := range []string{first, second} {
				events := f.operator("GET", "/v1/audit?key="+id, "").at("events").([]any)
				if got := events[0].(map[string]any)["action"]; got != "key.revoke" {
					t.Errorf("the newest event of %s is %v", id, got)
				}
			}
			// Without the chain flag one key is revoked, and the answer has no list.
			rolled := f.roll(alone, `{"grace_seconds":3600}`)
			like(t, revoke(f, alone, false).want(200).ownerView(), `{"key":`+fmt.Sprintf(key, alone, "TIME", `"`+rolled+`"`)+`,"change":`+change+`}`)
			if got := fmt.Sprint(f.activeKeys()); got != fmt.Sprint([]string{rolled}) {
				t.Errorf("in force: %s", got)
			}
			revoke(f, "nope", true).rejected(404)
			if name == "owner" {
				revoke(f, other, true).rejected(404)
			}
		})
	}
	f := setUp(t)
	f.account("a")
	id, _ := f.key("a", "")
	f.operator("POST", "/v1/keys/"+id+"/revoke", `{"chain":1}`).rejected(400, "chain must be true or false")
	f.operator("POST", "/v1/keys/"+id+"/revoke?chain=true", ``).rejected(400, "chain is not a query parameter")
	f.owner("a", "DELETE", own+"/"+id+"?chain=1", "").rejected(400, "chain must be true or false")
	f.owner("a", "DELETE", own+"/"+id+"?chain=", "").rejected(400, "chain must be true or false")
	f.owner("a", "DELETE", own+"/"+id, `{"chain":true}`).rejected(400, "chain is not a known field")
	if got := len(f.activeKeys()); got != 1 {
		t.Errorf("%d keys in force", got)
	}
}

// At most two keys of a chain are in force, after successive and after concurrent rolls. So an owner cannot multiply a
// scope that an operator granted.
func TestRollsDoNotMultiplyGrants(t *testing.T) {
	const rolls = 50
	t.Run("successive", func(t *testing.T) {
		f := setUp(t)
		f.account("a")
		id, _ := f.key("a", `,"scopes":["chat:companion"]`)
		for range rolls {
			id = f.owner("a", "POST", own+"/"+id+"/roll", `{"grace_seconds":86400}`).want(201).text("key", "id")
		}
		if got := len(f.activeKeys()); got != 2 {
			t.Errorf("%d keys in force", got)
		}
	})
	t.Run("concurrent", func(t *testing.T) {
		f := setUp(t)
		f.account("a")
		id, _ := f.key("a", `,"scopes":["chat:companion"]`)
		var work sync.WaitGroup
		for range rolls {
			work.Go(func() {
				if got := f.owner("a", http.MethodPost, own+"/"+id+"/roll", `{"grace_seconds":86400}`).status; got != 201 && got != 409 {
					t.Errorf("status %d", got)
				}
			})
		}
		work.Wait()
		if got := len(f.activeKeys()); got != 2 {
			t.Errorf("%d keys in force", got)
		}
	})
}
