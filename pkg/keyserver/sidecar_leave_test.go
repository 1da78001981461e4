package keyserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// A poll number that is not larger than the one on record is rejected before anything else is checked, and nothing is
// recorded.
func TestPollNumberIsCheckedFirst(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("other", "")
		f.pollNumber("s", 9, -1, "", "").want(410)
		f.pollNumber("s", 5, head, epoch, "").want(200) // the first request did not record its number
		f.key("a", "")
		before := f.stored()
		for _, number := range []int64{5, 4, 1} {
			for _, fields := range []string{"", `,"leave":true`, `,"wait_ms":30000`} {
				for _, after := range []int64{-1, 0, head, head + 1, head + 9} {
					f.pollNumber("s", number, after, epoch, fields).rejected(409, "poll", "5")
				}
				f.pollNumber("s", number, 0, "another", fields).rejected(409, "poll", "5")
			}
		}
		if after := f.stored(); after != before {
			t.Errorf("before\n%s\nafter\n%s", before, after)
		}
		f.pollNumber("s", 6, head+9, epoch, "").want(410)
		f.pollNumber("s", 6, head, epoch, "").rejected(409, "6")
		f.pollNumber("s", 7, head, epoch, "").want(200)
	})
}

// A first poll that arrives late, after a revocation that the sidecar does not have, acknowledges nothing.
func TestDelayedFirstPollAcknowledgesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		id, _ := f.key("a", "")
		epoch, head := f.startSidecar("s", "")
		change := f.operator("POST", "/v1/keys/"+id+"/revoke", "").want(200).number("change", "revision")
		f.poll("s", -1, "", "").want(410)
		r := f.operator("GET", fmt.Sprintf("/v1/revisions/%d", change), "")
		if r.at("change", "effective") != false {
			t.Errorf("a request for the head made the change effective: %s", r.raw)
		}
		f.poll("s", head+1, epoch, "").want(200)
		if r := f.operator("GET", fmt.Sprintf("/v1/revisions/%d", change), ""); r.at("change", "effective") != true {
			t.Errorf("got %s", r.raw)
		}
	})
}

func TestLeave(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("s", `,"max_stale_ms":600000`)
		id, _ := f.key("a", "")
		change := f.operator("POST", "/v1/keys/"+id+"/revoke", "").want(200)
		if change.at("change", "effective") != false {
			t.Fatalf("got %s", change.raw)
		}
		began := time.Now()
		r := f.pollNumber("s", 100, -7, "nonsense", `,"leave":true,"wait_ms":30000,"max_stale_ms":86400000`).want(200)
		if want := fmt.Sprintf(`{"epoch":%q,"revision":%d,"changes":[],"lease_ms":0}`, epoch, head+2); r.raw != want {
			t.Errorf("got %s, want %s", r.raw, want)
		}
		if time.Since(began) > time.Second {
			t.Error("did not answer immediately")
		}
		if got := f.operator("GET", "/v1/sidecars", "").raw; got != `{"sidecars":[],"next":null}` {
			t.Errorf("still listed: %s", got)
		}
		r = f.operator("GET", fmt.Sprintf("/v1/revisions/%d", head+2), "")
		if r.at("change", "effective") != true {
			t.Errorf("the change waits for a sidecar that has left: %s", r.raw)
		}
		rejected := func() {
			t.Helper()
			for _, number := range []int64{7, 100, 101, 1 << 50} {
				f.pollNumber("s", number, head, epoch, "").rejected(409)
				f.pollNumber("s", number, -1, "", "").rejected(409)
			}
		}
		rejected()
		f.pollNumber("s", 100, 0, "", `,"leave":true`).rejected(409)
		f.pollNumber("s", 101, 0, "", `,"leave":true`).want(200)
		<-time.After(10 * time.Minute)
		rejected()
		<-time.After(16 * time.Second) // the end of the record
		f.pollNumber("s", 1, head, epoch, "").want(200)
	})
}

// The last request of a sidecar may arrive before its first poll. A name that is not on record is rejected for as
// long as the longest lease and stale time.
func TestLeaveOfAnUnknownName(t *testing.T) {
	bubble(t, func(_ *testing.T, f *fixture) {
		settings := testSettings()
		settings.LongestMaxStale = time.Minute
		f.Apply(settings)
		epoch, head := f.startSidecar("other", "")
		f.pollNumber("s", 2, 0, "", `,"leave":true`).want(200)
		f.pollNumber("s", 1, head, epoch, "").rejected(409)
		<-time.After(time.Minute + 14*time.Second)
		f.pollNumber("s", 3, head, epoch, "").rejected(409)
		<-time.After(2 * time.Second)
		f.pollNumber("s", 4, head, epoch, "").want(200)
	})
}

func TestForgetSidecar(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		for _, name := range []string{"s", "a/b", "..", ".", "ü 100%?#&+", strings.Repeat("ü", 128)} {
			path := "/v1/sidecars/" + escaped(name)
			f.operator("DELETE", path, "").rejected(404, "sidecar")
			epoch, head := f.startSidecar(name, `,"max_stale_ms":60000`)
			list := f.operator("GET", "/v1/sidecars", "").raw
			change := f.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`).number("change", "revision")
			r := f.operator("DELETE", path, "").want(200)
			if want := `{"sidecars":[` + strings.TrimPrefix(strings.TrimSuffix(r.raw, "}"), `{"sidecar":`) + `],"next":null}`; list != want {
				t.Errorf("%s: got %s, listed as %s", name, r.raw, list)
			}
			if got := f.operator("GET", fmt.Sprintf("/v1/revisions/%d", change), ""); got.at("change", "effective") != true {
				t.Errorf("%s: the change still waits: %s", name, got.raw)
			}
			f.poll(name, head, epoch, "").rejected(409)
			f.poll(name, -1, "", "").rejected(409)
			f.operator("DELETE", path, "").rejected(404, "sidecar")
			f.poll(name, head, epoch, `,"leave":true`).want(200)
			event := f.operator("GET", "/v1/audit?limit=1", "").at("events").([]any)[0].(map[string]any)
			if event["action"] != "sidecar.forget" || event["account"] != "" || event["key"] != nil || event["actor"] != "operator:alice" ||
				fmt.Sprint(event["detail"]) != fmt.Sprint(map[string]any{"name": name}) {
				t.Errorf("%s: the event is %v", name, event)
			}
		}
		for _, name := range []string{"%00", "%ff", strings.Repeat("x", 129), "%e2%80%ae"} { // not valid in a poll
			f.operator("DELETE", "/v1/sidecars/"+name, "").rejected(404, "sidecar")
		}
		f.operator("DELETE", "/v1/sidecars/s", `{"unheard":1}`).rejected(400, "unheard")
		f.sidecar("/v1/sidecars/s", "").rejected(404)
	})
}

// escaped escapes every byte of a name for a path.
func escaped(name string) string {
	var b strings.Builder
	for i := range len(name) {
		fmt.Fprintf(&b, "%%%02x", name[i])
	}
	return b.String()
}

// fullStore has no room for another sidecar.
type fullStore struct{ keystore.Store }

func (fullStore) RecordPoll(context.Context, keystore.Poll) (keystore.Head, time.Duration, error) {
	return keystore.Head{}, 0, keystore.ErrFull
}

// A poll is rejected with 503 if too many sidecars are on record. That is logged once a minute.
func TestTooManySidecars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUpOn(t, func(s keystore.Store) keystore.Store { return fullStore{s} })
		for range 3 {
			for range 100 {
				r := f.poll("s", 0, "e", "")
				r.rejected(503, "Too many sidecars")
				if r.header.Get("Retry-After") != "1" {
					t.Errorf("retry-after %q", r.header.Get("Retry-After"))
				}
			}
			<-time.After(logInterval)
		}
		if n := f.logs.FilterMessageSnippet("too many sidecars").Len(); n != 3 || f.logs.Len() != n {
			t.Errorf("%d lines with this message of %d", n, f.logs.Len())
		}
	})
}

// A sidecar acknowledges a revision beyond the head if the store was restored without -new-epoch.
func TestPollsBeyondTheHeadAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("s", "")
		for _, not := range []reply{f.poll("s", -1, epoch, ""), f.poll("s", head+1, "another", ""), f.poll("s", head, "another", "")} {
			not.want(410)
		}
		if got := f.scrape(); !slices.Contains(got, "phantom_keyd_polls_beyond_head_total 0") || f.logs.Len() > 0 {
			t.Errorf("%s, %d lines", got, f.logs.Len())
		}
		for range 2 {
			for range 50 {
				f.poll("s", head+1, epoch, "").want(410)
			}
			<-time.After(logInterval)
		}
		f.poll("unknown", head+1, epoch, "").want(http.StatusGone)
		if got := f.scrape(); !slices.Contains(got, "phantom_keyd_polls_beyond_head_total 101") {
			t.Errorf("got %s", got)
		}
		if n := f.logs.FilterMessageSnippet("-new-epoch").Len(); n != 3 {
			t.Errorf("%d lines, want one a minute", n)
		}
	})
}
