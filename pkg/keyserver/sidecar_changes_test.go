package keyserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// poll sends the next poll of a sidecar; fields follow after sidecar, poll and after.
func (f *fixture) poll(name string, after int64, epoch, fields string) reply {
	f.t.Helper()
	return f.pollNumber(name, f.polls.Add(1), after, epoch, fields)
}

// pollNumber sends a poll with that number.
func (f *fixture) pollNumber(name string, number, after int64, epoch, fields string) reply {
	f.t.Helper()
	return f.sidecar("/v1/changes", fmt.Sprintf(`{"sidecar":%q,"poll":%d,"after":%d,"epoch":%q%s}`, name, number, after, epoch, fields))
}

// startSidecar requests the head and acknowledges it, as a sidecar does at its start.
func (f *fixture) startSidecar(name, fields string) (epoch string, head int64) {
	f.t.Helper()
	r := f.poll(name, -1, "", fields).want(410)
	epoch, head = r.text("epoch"), r.number("revision")
	f.poll(name, head, epoch, fields).want(200)
	return epoch, head
}

// bubble runs a test with an account in a synctest bubble.
func bubble(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.account("a")
		test(t, f)
	})
}

// The first poll gets the head and is not recorded. The second poll is the acknowledgement and gets the first lease.
func TestPollBeginsAtTheHead(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		began := time.Now()
		r := f.poll("s", -1, "", `,"wait_ms":30000,"max_stale_ms":60000`).want(410)
		epoch := r.text("epoch")
		if want := fmt.Sprintf(`{"epoch":%q,"revision":1}`, epoch); r.raw != want || time.Since(began) > time.Second {
			t.Errorf("got %s after %s, want %s", r.raw, time.Since(began), want)
		}
		if got := f.operator("GET", "/v1/sidecars", "").raw; got != `{"sidecars":[],"next":null}` {
			t.Errorf("a request for the head is on record: %s", got)
		}
		r = f.poll("s", 1, epoch, `,"wait_ms":0,"max_stale_ms":60000`).want(200)
		if want := fmt.Sprintf(`{"epoch":%q,"revision":1,"changes":[],"lease_ms":15000}`, epoch); r.raw != want {
			t.Errorf("got %s, want %s", r.raw, want)
		}
		sidecars := f.operator("GET", "/v1/sidecars", "").raw
		if want := fmt.Sprintf(`{"sidecars":[{"name":"s","revision":1,"lease_ends_at":%q,"stale_ends_at":%q}],"next":null}`,
			began.Add(15*time.Second).UTC().Format(time.RFC3339Nano), began.Add(75*time.Second).UTC().Format(time.RFC3339Nano)); sidecars != want {
			t.Errorf("got  %s\nwant %s", sidecars, want)
		}
	})
}

func TestPollAnswersImmediatelyWithChanges(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("s", "")
		_, plaintext := f.key("a", "")
		f.operator("POST", "/v1/accounts/a/terminate", "").want(200)
		began := time.Now()
		r := f.poll("s", head, epoch, `,"wait_ms":30000`).want(200)
		want := fmt.Sprintf(`{"epoch":%q,"revision":3,"changes":[{"revision":2,"credential":%q},{"revision":3,"account":"a"}],"lease_ms":15000}`,
			epoch, digestOf(plaintext))
		if r.raw != want || time.Since(began) > time.Second {
			t.Errorf("got %s after %s, want %s", r.raw, time.Since(began), want)
		}
	})
}

func TestPollHeartbeat(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("s", "")
		for _, wait := range []time.Duration{0, 2500 * time.Millisecond, 30 * time.Second} {
			began := time.Now()
			r := f.poll("s", head, epoch, fmt.Sprintf(`,"wait_ms":%d`, wait.Milliseconds())).want(200)
			want := fmt.Sprintf(`{"epoch":%q,"revision":%d,"changes":[],"lease_ms":15000}`, epoch, head)
			if took := time.Since(began); r.raw != want || took < wait || took > wait+time.Second {
				t.Errorf("got %s after %s, want %s after %s", r.raw, took, want, wait)
			}
		}
	})
}

// A change and the drain end the wait of a poll, but not the poll of another sidecar.
func TestPollReturnsEarly(t *testing.T) {
	for name, wake := range map[string]struct {
		do      func(f *fixture)
		changes int
	}{
		"change":                  {func(f *fixture) { f.key("a", "") }, 1},
		"drain":                   {func(f *fixture) { close(f.drain) }, 0},
		"poll of another sidecar": {func(f *fixture) { f.poll("t", 1, "nonsense", "") }, -1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				epoch, head := f.startSidecar("s", "")
				began := time.Now()
				answered := make(chan reply, 1)
				go func() { answered <- f.poll("s", head, epoch, `,"wait_ms":30000`) }()
				<-time.After(5 * time.Second)
				if len(answered) > 0 {
					t.Fatalf("answered without changes: %s", (<-answered).raw)
				}
				wake.do(f)
				r := (<-answered).want(200)
				took := time.Since(began)
				if wake.changes < 0 {
					if took < 30*time.Second {
						t.Errorf("the poll of another sidecar ended this one after %s", took)
					}
					return
				}
				if got := len(r.at("changes").([]any)); got != wake.changes || took > 5100*time.Millisecond {
					t.Errorf("%d changes after %s: %s", got, took, r.raw)
				}
				if got := r.number("lease_ms"); got != 15000 {
					t.Errorf("lease_ms %d", got)
				}
			})
		})
	}
}

// Without signals of the store a poll gets a change within a second.
type withoutSignals struct{ keystore.Store }

func (withoutSignals) Changed() <-chan struct{} { return nil }

func TestPollWithoutSignals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUpOn(t, func(s keystore.Store) keystore.Store { return withoutSignals{s} })
		f.account("a")
		epoch, head := f.startSidecar("s", "")
		answered := make(chan reply, 1)
		go func() { answered <- f.poll("s", head, epoch, `,"wait_ms":30000`) }()
		<-time.After(5 * time.Second)
		f.key("a", "")
		began := time.Now()
		r := <-answered
		if took := time.Since(began); took > 1100*time.Millisecond || len(r.at("changes").([]any)) != 1 {
			t.Errorf("%s after %s", r.raw, took)
		}
	})
}

func TestPollAcknowledges(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, _ := f.startSidecar("s", "")
		f.key("a", "")
		f.poll("s", 2, epoch, "").want(200)
		revision := func() int64 {
			list := f.operator("GET", "/v1/sidecars", "").at("sidecars").([]any)
			return int64(list[0].(map[string]any)["revision"].(float64))
		}
		if got := revision(); got != 2 {
			t.Errorf("acknowledged %d", got)
		}
		f.poll("s", 1, epoch, "").want(200) // delayed on its way
		if got := revision(); got != 2 {
			t.Errorf("went back to %d", got)
		}
	})
}

func TestPollGone(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("first", "")
		gone := func(r reply) {
			t.Helper()
			if want := fmt.Sprintf(`{"epoch":%q,"revision":%d}`, epoch, head); r.want(410).raw != want {
				t.Errorf("got %s, want %s", r.raw, want)
			}
		}
		gone(f.poll("s", head, "another", ""))
		gone(f.poll("s", head, "", ""))
		gone(f.poll("s", head+1, epoch, ""))
		gone(f.poll("s", 1<<62, epoch, `,"wait_ms":30000`))
		if got := len(f.operator("GET", "/v1/sidecars", "").at("sidecars").([]any)); got != 1 {
			t.Error("a poll that got no lease is on record")
		}
		// The log no longer reaches back.
		for range 3 {
			f.key("a", "")
		}
		head += 3
		<-time.After(2 * time.Minute)
		if err := f.store.Prune(context.Background(), time.Minute); err != nil {
			t.Fatal(err)
		}
		gone(f.poll("s", 0, epoch, `,"wait_ms":30000`))
		// The sidecar continues from that head.
		f.poll("s", head, epoch, "").want(200)
	})
}

func TestPollOverANewEpoch(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("s", "")
		answered := make(chan reply, 1)
		go func() { answered <- f.poll("s", head, epoch, `,"wait_ms":30000`) }()
		<-time.After(time.Second)
		newHead, err := f.store.NewEpoch(context.Background(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		r := (<-answered).want(410)
		if took := time.Since(began); took > 1100*time.Millisecond {
			t.Errorf("answered after %s", took)
		}
		if got := r.text("epoch"); got != newHead.Epoch || got == epoch {
			t.Errorf("epoch %q", got)
		}
		// Starting over takes any epoch.
		if r := f.poll("s", -1, epoch, "").want(410); r.text("epoch") != newHead.Epoch {
			t.Errorf("got %s", r.raw)
		}
	})
}

// smallAnswers returns three changes at most.
type smallAnswers struct{ keystore.Store }

const maxChanges = 3

func (n smallAnswers) RecordPoll(ctx context.Context, p keystore.Poll) (keystore.Head, time.Duration, error) {
	p.Limit = maxChanges
	return n.Store.RecordPoll(ctx, p)
}

func (n smallAnswers) Changes(ctx context.Context, epoch string, after int64, _ int) (keystore.Head, []keystore.Change, error) {
	return n.Store.Changes(ctx, epoch, after, maxChanges)
}

// An answer that leaves out changes does not extend the lease. Otherwise an effective_by that was returned for one of
// those changes could be broken.
func TestPartialAnswerGivesNoLongerLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUpOn(t, func(s keystore.Store) keystore.Store { return smallAnswers{s} })
		f.account("a")
		epoch, head := f.startSidecar("s", "")
		for range maxChanges {
			f.key("a", "")
		}
		id, _ := f.key("a", "")
		change := fmt.Sprintf("/v1/revisions/%d", head+maxChanges+1)
		before := f.operator("GET", change, "").raw
		<-time.After(5 * time.Second)
		r := f.poll("s", head, epoch, "").want(200)
		if got := len(r.at("changes").([]any)); got != maxChanges || r.number("revision") != head+maxChanges || r.number("lease_ms") != 10000 {
			t.Errorf("%d changes up to %d, lease %d", got, r.number("revision"), r.number("lease_ms"))
		}
		if after := f.operator("GET", change, "").raw; after != before {
			t.Errorf("got %s and then %s", before, after)
		}
		f.poll("never seen", head, epoch, "").want(410)
		r = f.poll("s", head+maxChanges, epoch, "").want(200)
		if got := len(r.at("changes").([]any)); got != 1 || r.number("lease_ms") != 15000 {
			t.Errorf("%d changes, lease %d", got, r.number("lease_ms"))
		}
		for range maxChanges {
			id, _ = f.key("a", "")
		}
		f.operator("POST", "/v1/keys/"+id+"/revoke", "")
		<-time.After(15 * time.Second)
		r = f.poll("s", head+maxChanges+1, epoch, "").want(410)
		if r.number("revision") != head+2*maxChanges+2 {
			t.Errorf("got %s", r.raw)
		}
	})
}

// A sidecar repeats a poll without acknowledging the change. The effective_by of the change stays.
func TestRepeatedPollsDoNotExtendADeadline(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("s", `,"max_stale_ms":20000`)
		began := time.Now()
		f.key("a", "")
		change := fmt.Sprintf("/v1/revisions/%d", head+1)
		first := f.operator("GET", change, "").raw
		if by := began.Add(35 * time.Second).UTC().Format(time.RFC3339Nano); !strings.Contains(first, by) {
			t.Fatalf("got %s, want %s", first, by)
		}
		for range 17 {
			<-time.After(2 * time.Second)
			f.poll("s", head, epoch, `,"max_stale_ms":20000`).want(200)
			if now := f.operator("GET", change, "").raw; now != first {
				t.Fatalf("got %s, and then %s", first, now)
			}
		}
		<-time.After(time.Second)
		f.operator("GET", change, "").want(200)
		if r := f.operator("GET", change, ""); r.at("change", "effective") != true {
			t.Errorf("got %s", r.raw)
		}
	})
}

// failingPolls cannot record a poll.
type failingPolls struct{ keystore.Store }

func (failingPolls) RecordPoll(context.Context, keystore.Poll) (keystore.Head, time.Duration, error) {
	return keystore.Head{}, 0, errors.New("disk full at /var/lib")
}

func TestNoLeaseWithoutARecord(t *testing.T) {
	f := setUpOn(t, func(s keystore.Store) keystore.Store { return failingPolls{s} })
	f.account("a")
	head, err := f.store.Head(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	f.poll("s", -1, "", "").rejected(503)
	f.poll("s", head.Revision, head.Epoch, "").rejected(503)
}

// A client that disconnects ends the wait of its request, and nothing is logged.
func TestDisconnectEndsTheWait(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("s", "")
		requests := map[string]*http.Request{
			"sidecars":  request("POST", "/v1/changes", fmt.Sprintf(`{"sidecar":"s","poll":%d,"after":%d,"epoch":%q,"wait_ms":30000}`, f.polls.Add(1), head, epoch)),
			"operators": request("POST", "/v1/accounts/a/terminate?wait_ms=30000", ""),
		}
		for _, side := range []string{"sidecars", "operators"} { // the poll first, because the other is a change
			r := requests[side]
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			stopped, stop := context.WithCancel(context.Background())
			context.AfterFunc(ctx, stop)
			r.Header.Set("Authorization", "Bearer "+map[string]string{"sidecars": sidecarToken, "operators": aliceToken}[side])
			began := time.Now()
			f.do(side, r.WithContext(stopped))
			if took := time.Since(began); took < 2*time.Second || took > 2100*time.Millisecond {
				t.Errorf("%s: returned after %s", side, took)
			}
			cancel()
		}
		if f.logs.Len() > 0 {
			t.Errorf("logged: %v", f.logs.All())
		}
	})
}
