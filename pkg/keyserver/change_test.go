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

// waited is the answer to a change that was asked to wait, and how long it took.
func (f *fixture) waited(target string) (reply, time.Duration) {
	f.t.Helper()
	began := time.Now()
	r := f.operator("POST", target, "")
	return r, time.Since(began)
}

func TestChangeWaitsForSidecars(t *testing.T) {
	synced(t, func(t *testing.T, f *fixture) {
		id, _ := f.key("a", "")
		began := time.Now()
		epoch, head := f.begun("two", `,"max_stale_ms":60000`)
		f.begun("one", "")
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

// Everything that changes something waits, and so does looking at a revision.
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
			synced(t, func(t *testing.T, f *fixture) {
				key, _ := f.key("a", `,"scopes":["write"]`)
				session := f.operator("POST", "/v1/accounts/a/sessions", "").text("session", "id")
				epoch, head := f.begun("s", "")
				if c.method == http.MethodGet {
					f.key("a", "")
					head++
				}
				path := strings.NewReplacer("KEY", key, "SESSION", session, "HEAD", fmt.Sprint(head)).Replace(c.path)
				ask := func(wait int) reply {
					target := fmt.Sprintf("%s?wait_ms=%d", path, wait)
					if c.side == "owners" {
						return f.owner("a", c.method, target, c.body)
					}
					return f.operator(c.method, target, c.body)
				}
				began := time.Now()
				answered := make(chan reply, 1)
				go func() { answered <- ask(10000) }()
				<-time.After(5 * time.Second)
				if len(answered) > 0 {
					t.Fatalf("did not wait: %s", (<-answered).raw)
				}
				now := f.operator("GET", "/v1/accounts", "").want(200) // others go on
				_ = now
				r := f.poll("s", head, epoch, "")
				f.poll("s", r.number("revision"), epoch, "")
				acknowledged := time.Now()
				got := <-answered
				if got.status >= 300 {
					t.Fatalf("%d %s", got.status, got.raw)
				}
				if late := time.Since(acknowledged); late > 50*time.Millisecond {
					t.Errorf("told %s after the last acknowledgement", late)
				}
				if c.path != "/v1/accounts" && got.at("change", "effective") != true {
					t.Errorf("not effective after %s: %s", time.Since(began), got.raw)
				}
			})
		})
	}
}

func TestWaitRunsOut(t *testing.T) {
	synced(t, func(t *testing.T, f *fixture) {
		id, _ := f.key("a", "")
		f.begun("s", "")
		r, took := f.waited("/v1/keys/" + id + "/revoke?wait_ms=3000")
		if took < 3*time.Second || took > 3100*time.Millisecond || r.at("change", "effective") != false {
			t.Errorf("after %s: %s", took, r.raw)
		}
	})
}

// A sidecar that is never heard of again holds a change up until its time is over,
// and not longer.
func TestChangeBecomesEffectiveByItself(t *testing.T) {
	synced(t, func(t *testing.T, f *fixture) {
		id, _ := f.key("a", "")
		f.begun("s", `,"max_stale_ms":20000`)
		r, took := f.waited("/v1/keys/" + id + "/revoke?wait_ms=60000")
		if r.at("change", "effective") != true || took < 35*time.Second || took > 35100*time.Millisecond {
			t.Errorf("after %s: %s", took, r.raw)
		}
	})
}

func TestNothingIsEffectiveRightAfterANewEpoch(t *testing.T) {
	synced(t, func(t *testing.T, f *fixture) {
		if _, err := f.store.NewEpoch(context.Background(), 40*time.Second); err != nil {
			t.Fatal(err)
		}
		id, _ := f.key("a", "")
		r, took := f.waited("/v1/keys/" + id + "/revoke?wait_ms=60000")
		if r.at("change", "effective") != true || took < 40*time.Second || took > 40100*time.Millisecond {
			t.Errorf("after %s: %s", took, r.raw)
		}
	})
}

func TestDrainEndsTheWait(t *testing.T) {
	synced(t, func(t *testing.T, f *fixture) {
		id, _ := f.key("a", "")
		f.begun("s", "")
		go func() {
			<-time.After(2 * time.Second)
			close(f.drain)
		}()
		r, took := f.waited("/v1/keys/" + id + "/revoke?wait_ms=60000")
		if took > 2100*time.Millisecond || r.want(200).at("change", "effective") != false {
			t.Errorf("after %s: %s", took, r.raw)
		}
	})
}

// blinded loses the list of sidecars after the first look.
type blinded struct {
	keystore.Store
	looks *int
}

func (b blinded) Progress(ctx context.Context, revision int64) (keystore.Head, keystore.Progress, error) {
	if *b.looks++; *b.looks > 1 {
		return keystore.Head{}, keystore.Progress{}, context.DeadlineExceeded
	}
	return b.Store.Progress(ctx, revision)
}

// A change that was made is answered with what is known of it, not with an error.
func TestWaitOutlivesAStoreThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		f := setUpOn(t, func(s keystore.Store) keystore.Store { return blinded{s, &looks} })
		f.account("a")
		f.begun("s", "")
		looks = 0
		r := f.operator("POST", "/v1/accounts/a/keys?wait_ms=5000", `{"label":"x"}`).want(201)
		if r.at("change", "effective") != false || r.text("plaintext") == "" {
			t.Errorf("got %s", r.raw)
		}
	})
}

// Sidecars hear of a revocation and acknowledge it one after the other, and the operator
// hears that within 50 ms of the last, whenever that is.
func TestRevokeToEffective(t *testing.T) {
	synced(t, func(t *testing.T, f *fixture) {
		for step := range time.Duration(20) {
			if late := f.toldAfterTheLast((step + 1) * 1300 * time.Microsecond); late < 0 || late > 50*time.Millisecond {
				t.Errorf("with %s between them: told %s after the last sidecar has acknowledged", (step+1)*1300*time.Microsecond, late)
			}
		}
	})
}

// toldAfterTheLast revokes a key among ten sidecars that acknowledge so far apart.
func (f *fixture) toldAfterTheLast(apart time.Duration) time.Duration {
	const fleet = 10
	id, _ := f.key("a", "")
	var last time.Time // who acknowledges
	var wg sync.WaitGroup
	for i := range fleet {
		name := fmt.Sprint(i)
		epoch, head := f.begun(name, "")
		wg.Go(func() {
			r := f.poll(name, head, epoch, `,"wait_ms":30000`)
			<-time.After(time.Duration(i+1) * apart)
			if i == fleet-1 {
				last = time.Now()
			}
			f.poll(name, r.number("revision"), epoch, "").want(200)
		})
	}
	synctest.Wait()
	r := f.operator("POST", "/v1/keys/"+id+"/revoke?wait_ms=30000", "").want(200)
	told := time.Now()
	wg.Wait()
	if r.at("change", "effective") != true {
		f.t.Fatalf("got %s", r.raw)
	}
	return told.Sub(last)
}

// Owners learn how far their change has come, and nothing of sidecars, whose names are what
// protects their acknowledgements.
func TestOwnersSeeNoSidecars(t *testing.T) {
	synced(t, func(t *testing.T, f *fixture) {
		epoch, head := f.begun("canary-sidecar", "")
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

// The holder of a leaked token invents sidecars: answers stay small, and tell how many there are.
func TestChangeNamesAHundredSidecars(t *testing.T) {
	synced(t, func(t *testing.T, f *fixture) {
		const crowd = 250
		for i := range crowd {
			f.begun(fmt.Sprintf("%03d-%s", i, strings.Repeat("x", 124)), "")
		}
		r := f.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`).want(201)
		names := r.at("change", "waiting_for").([]any)
		if n := r.number("change", "waiting"); n != crowd || len(names) != 100 || !strings.HasPrefix(names[99].(string), "099-") || len(r.raw) > 20_000 {
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
		if listed != crowd {
			t.Errorf("%d sidecars in pages", listed)
		}
		if n := len(f.operator("GET", "/v1/sidecars", "").at("sidecars").([]any)); n != 100 {
			t.Errorf("%d sidecars without a limit", n)
		}
	})
}

// hung does not answer a question about sidecars.
type hung struct{ keystore.Store }

func (hung) Leases(ctx context.Context) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// A scrape of the metrics never waits for the store.
func TestScrapeDoesNotAskTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUpOn(t, func(s keystore.Store) keystore.Store { return hung{s} })
		began := time.Now()
		got := f.scrape()
		if took := time.Since(began); took > 0 || !slices.Contains(got, "keyd_sidecars NaN") || !slices.Contains(got, "keyd_sidecars_counted_timestamp_seconds 0") {
			t.Errorf("after %s: %v", took, got)
		}
	})
	synced(t, func(t *testing.T, f *fixture) {
		f.begun("s", "")
		<-time.After(2*countInterval + time.Second)
		now := time.Now()
		f.begun("t", "")
		if got := f.scrape(); !slices.Contains(got, "keyd_sidecars 0") { // the lease of s is over
			t.Errorf("got %v", got)
		}
		<-time.After(countInterval)
		if got := f.scrape(); !slices.Contains(got, "keyd_sidecars 1") {
			t.Errorf("got %v", got)
		}
		for _, line := range f.scrape() {
			if at, ok := strings.CutPrefix(line, "keyd_sidecars_counted_timestamp_seconds "); ok {
				seconds, err := strconv.ParseFloat(at, 64)
				if err != nil || seconds < float64(now.Unix()) {
					t.Errorf("counted at %s, not after %d", at, now.Unix())
				}
			}
		}
	})
}
