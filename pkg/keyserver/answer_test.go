package keyserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// timed sends a change and returns its duration.
func (f *fixture) timed(target string) (reply, time.Duration) {
	f.t.Helper()
	began := time.Now()
	r := f.operator("POST", target, "")
	return r, time.Since(began)
}

func TestChangeWaitsForSidecars(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		id, _ := f.key("a", "")
		began := time.Now()
		epoch, head := f.startSidecar("two", `,"max_stale_ms":60000`)
		f.startSidecar("one", "")
		r := f.operator("POST", "/v1/keys/"+id+"/revoke", "").want(200)
		by := began.Add(75 * time.Second).UTC().Format(time.RFC3339Nano)
		want := fmt.Sprintf(`"change":{"revision":%d,"effective":false,"effective_by":%q,"waiting":2,"waiting_for":["one","two"]}}`, head+1, by)
		if !strings.HasSuffix(r.raw, want) {
			t.Errorf("got %s, want …%s", r.raw, want)
		}
		f.poll("two", head+1, epoch, "").want(200)
		r = f.operator("GET", fmt.Sprintf("/v1/revisions/%d", head+1), "").want(200)
		if got := fmt.Sprint(r.at("change", "waiting_for")); got != "[one]" {
			t.Errorf("waiting for %s", got)
		}
		f.poll("one", head+1, epoch, "").want(200)
		r = f.operator("GET", fmt.Sprintf("/v1/revisions/%d", head+1), "").want(200)
		if got, want := r.raw, fmt.Sprintf(`{"change":{"revision":%d,"effective":true,"effective_by":null,"waiting":0,"waiting_for":[]}}`, head+1); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// All requests that change something wait, and so does a request for a revision.
func TestWaitOfEveryChange(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	for _, c := range []struct{ side, method, path, body string }{
		{"operators", "POST", "/v1/accounts", `{"name":"x"}`},
		{"operators", "POST", "/v1/accounts/a/terminate", ``},
		{"operators", "POST", "/v1/accounts/a/keys", `{"label":"x"}`},
		{"operators", "POST", "/v1/accounts/a/keys/import", `{"label":"x","sha256":"` + digest + `"}`},
		{"operators", "POST", "/v1/keys/KEY/revoke", ``},
		{"operators", "POST", "/v1/keys/KEY/roll", ``},
		{"operators", "PUT", "/v1/keys/KEY/scopes/read", ``},
		{"operators", "DELETE", "/v1/keys/KEY/scopes/write", ``},
		{"operators", "DELETE", "/v1/sessions/SESSION", ``},
		{"operators", "GET", "/v1/revisions/HEAD", ``},
		{"owners", "POST", "/api/v1/me/keys", `{"label":"x"}`},
		{"owners", "DELETE", "/api/v1/me/keys/KEY", ``},
		{"owners", "POST", "/api/v1/me/keys/KEY/roll", ``},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				key, _ := f.key("a", `,"scopes":["write"]`)
				session := f.operator("POST", "/v1/accounts/a/sessions", "").text("session", "id")
				epoch, head := f.startSidecar("s", "")
				if c.method == http.MethodGet {
					f.key("a", "")
					head++
				}
				path := strings.NewReplacer("KEY", key, "SESSION", session, "HEAD", fmt.Sprint(head)).Replace(c.path)
				send := func(wait int) reply {
					target := fmt.Sprintf("%s?wait_ms=%d", path, wait)
					if c.side == "owners" {
						return f.owner("a", c.method, target, c.body)
					}
					return f.operator(c.method, target, c.body)
				}
				began := time.Now()
				answered := make(chan reply, 1)
				go func() { answered <- send(10000) }()
				<-time.After(5 * time.Second)
				if len(answered) > 0 {
					t.Fatalf("did not wait: %s", (<-answered).raw)
				}
				f.operator("GET", "/v1/accounts", "").want(200) // other requests do not wait
				r := f.poll("s", head, epoch, "")
				f.poll("s", r.number("revision"), epoch, "")
				acknowledged := time.Now()
				got := <-answered
				if got.status >= 300 {
					t.Fatalf("%d %s", got.status, got.raw)
				}
				if late := time.Since(acknowledged); late > 50*time.Millisecond {
					t.Errorf("answered %s after the last acknowledgement", late)
				}
				if c.path != "/v1/accounts" && got.at("change", "effective") != true {
					t.Errorf("not effective after %s: %s", time.Since(began), got.raw)
				}
			})
		})
	}
}

func TestWaitRunsOut(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		id, _ := f.key("a", "")
		f.startSidecar("s", "")
		r, took := f.timed("/v1/keys/" + id + "/revoke?wait_ms=3000")
		if took < 3*time.Second || took > 3100*time.Millisecond || r.at("change", "effective") != false {
			t.Errorf("after %s: %s", took, r.raw)
		}
	})
}

// A sidecar that sends nothing more delays a change until its lease and stale time are over, and not longer.
func TestChangeBecomesEffectiveWhenLeasesEnd(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		id, _ := f.key("a", "")
		f.startSidecar("s", `,"max_stale_ms":20000`)
		r, took := f.timed("/v1/keys/" + id + "/revoke?wait_ms=60000")
		if r.at("change", "effective") != true || took < 35*time.Second || took > 35100*time.Millisecond {
			t.Errorf("after %s: %s", took, r.raw)
		}
	})
}

func TestNothingIsEffectiveRightAfterANewEpoch(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		if _, err := f.store.NewEpoch(context.Background(), 40*time.Second); err != nil {
			t.Fatal(err)
		}
		id, _ := f.key("a", "")
		r, took := f.timed("/v1/keys/" + id + "/revoke?wait_ms=60000")
		if r.at("change", "effective") != true || took < 40*time.Second || took > 40100*time.Millisecond {
			t.Errorf("after %s: %s", took, r.raw)
		}
	})
}

func TestDrainEndsTheWait(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		id, _ := f.key("a", "")
		f.startSidecar("s", "")
		go func() {
			<-time.After(2 * time.Second)
			close(f.drain)
		}()
		r, took := f.timed("/v1/keys/" + id + "/revoke?wait_ms=60000")
		if took > 2100*time.Millisecond || r.want(200).at("change", "effective") != false {
			t.Errorf("after %s: %s", took, r.raw)
		}
	})
}

// failingProgress fails after the first Progress.
type failingProgress struct {
	keystore.Store
	calls *int
}

func (b failingProgress) Progress(ctx context.Context, revision int64) (keystore.Head, keystore.Progress, error) {
	if *b.calls++; *b.calls > 1 {
		return keystore.Head{}, keystore.Progress{}, context.DeadlineExceeded
	}
	return b.Store.Progress(ctx, revision)
}

// If the store fails during the wait, the answer has the progress that was read before.
func TestWaitOutlivesAStoreThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		f := setUpOn(t, func(s keystore.Store) keystore.Store { return failingProgress{s, &calls} })
		f.account("a")
		f.startSidecar("s", "")
		calls = 0
		r := f.operator("POST", "/v1/accounts/a/keys?wait_ms=5000", `{"label":"x"}`).want(201)
		if r.at("change", "effective") != false || r.text("plaintext") == "" {
			t.Errorf("got %s", r.raw)
		}
	})
}

// Sidecars acknowledge a revocation one after the other. The operator's answer comes within 50 ms of the last
// acknowledgement.
func TestAnswerSoonAfterTheLastAcknowledgement(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		const steps, sidecars = 20, 10
		var keys [steps]string
		for i := range keys {
			keys[i], _ = f.key("a", "")
		}
		for i := range sidecars {
			f.startSidecar(fmt.Sprint(i), "")
		}
		for i, key := range keys {
			apart := time.Duration(i+1) * 1300 * time.Microsecond
			if late := f.answerDelay(key, sidecars, apart); late < 0 || late > 50*time.Millisecond {
				t.Errorf("with %s between them: answered %s after the last acknowledgement", apart, late)
			}
		}
	})
}

// answerDelay revokes a key. The sidecars acknowledge that at the given interval. It returns the time from the last
// acknowledgement to the answer.
func (f *fixture) answerDelay(key string, sidecars int, apart time.Duration) time.Duration {
	head, err := f.store.Head(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	var last time.Time
	var wg sync.WaitGroup
	for i := range sidecars {
		name := fmt.Sprint(i)
		wg.Go(func() {
			r := f.poll(name, head.Revision, head.Epoch, `,"wait_ms":30000`)
			<-time.After(time.Duration(i+1) * apart)
			if i == sidecars-1 {
				last = time.Now()
			}
			f.poll(name, r.number("revision"), head.Epoch, "").want(200)
		})
	}
	synctest.Wait()
	r := f.operator("POST", "/v1/keys/"+key+"/revoke?wait_ms=30000", "").want(200)
	answered := time.Now()
	wg.Wait()
	if r.at("change", "effective") != true {
		f.t.Fatalf("got %s", r.raw)
	}
	return answered.Sub(last)
}

// Owners get the progress of their change but no names of sidecars, because the names protect the acknowledgements.
func TestOwnersSeeNoSidecars(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("canary-sidecar", "")
		by := time.Now().Add(15 * time.Second).UTC().Format(time.RFC3339Nano)
		r := f.owner("a", "POST", own, `{"label":"x"}`).want(201)
		if want := fmt.Sprintf(`"change":{"revision":%d,"effective":false,"effective_by":%q}}`, head+1, by); !strings.HasSuffix(r.raw, want) {
			t.Errorf("got %s, want …%s", r.raw, want)
		}
		id := r.text("key", "id")
		rolled := f.owner("a", "POST", own+"/"+id+"/roll", "").want(201)
		revoked := f.owner("a", "DELETE", own+"/"+rolled.text("key", "id"), "").want(200)
		f.poll("canary-sidecar", revoked.number("change", "revision"), epoch, "").want(200)
		again := f.owner("a", "DELETE", own+"/"+rolled.text("key", "id"), "").want(200)
		if want := `"effective":true,"effective_by":null}}`; !strings.HasSuffix(again.raw, want) {
			t.Errorf("got %s, want …%s", again.raw, want)
		}
		for _, got := range []reply{r, rolled, revoked, again} {
			if strings.Contains(got.raw, "waiting") || strings.Contains(got.raw, "canary-sidecar") {
				t.Errorf("an owner sees %s", got.raw)
			}
		}
	})
}

// The holder of a leaked token can register any number of sidecars. Answers stay small and have the number.
func TestChangeNamesAtMost100Sidecars(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		const sidecars = 130
		for i := range sidecars {
			f.startSidecar(fmt.Sprintf("%03d-%s", i, strings.Repeat("x", 124)), "")
		}
		r := f.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`).want(201)
		names := r.at("change", "waiting_for").([]any)
		if n := r.number("change", "waiting"); n != sidecars || len(names) != 100 || !strings.HasPrefix(names[99].(string), "099-") || len(r.raw) > 20_000 {
			t.Errorf("%d bytes, waiting %d, for %d: the last %v", len(r.raw), n, len(names), names[len(names)-1])
		}
		listed := 0
		for cursor := ""; ; {
			page := f.operator("GET", "/v1/sidecars?limit=70"+cursor, "").want(200)
			listed += len(page.at("sidecars").([]any))
			if page.at("next") == nil {
				break
			}
			cursor = "&cursor=" + page.text("next")
		}
		if listed != sidecars {
			t.Errorf("%d sidecars in pages", listed)
		}
		if n := len(f.operator("GET", "/v1/sidecars", "").at("sidecars").([]any)); n != 100 {
			t.Errorf("%d sidecars without a limit", n)
		}
	})
}

// hangingLeases does not return from Leases.
type hangingLeases struct{ keystore.Store }

func (hangingLeases) Leases(ctx context.Context) (keystore.Head, keystore.Leases, error) {
	<-ctx.Done()
	return keystore.Head{}, keystore.Leases{}, ctx.Err()
}

func TestScrapeDoesNotReadTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUpOn(t, func(s keystore.Store) keystore.Store { return hangingLeases{s} })
		began := time.Now()
		got := f.scrape()
		if took := time.Since(began); took > 0 || !slices.Contains(got, "phantom_keyd_sidecars NaN") || !slices.Contains(got, "phantom_keyd_sidecars_counted_timestamp_seconds 0") {
			t.Errorf("after %s: %v", took, got)
		}
	})
	bubble(t, func(t *testing.T, f *fixture) {
		f.startSidecar("s", "")
		<-time.After(2*countInterval + time.Second)
		now := time.Now()
		f.startSidecar("t", "")
		if got := f.scrape(); !slices.Contains(got, "phantom_keyd_sidecars 0") { // the lease of s is over
			t.Errorf("got %v", got)
		}
		<-time.After(countInterval)
		if got := f.scrape(); !slices.Contains(got, "phantom_keyd_sidecars 1") {
			t.Errorf("got %v", got)
		}
		for _, line := range f.scrape() {
			if at, ok := strings.CutPrefix(line, "phantom_keyd_sidecars_counted_timestamp_seconds "); ok {
				seconds, err := strconv.ParseFloat(at, 64)
				if err != nil || seconds < float64(now.Unix()) {
					t.Errorf("counted at %s, not after %d", at, now.Unix())
				}
			}
		}
	})
}
