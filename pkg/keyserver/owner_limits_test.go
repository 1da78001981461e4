package keyserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// limitOwners sets the limits of owners' writes.
func (f *fixture) limitOwners(perMinute, burst, concurrent int) {
	settings := testSettings()
	settings.OwnerLimits = OwnerLimits{ChangesPerMinute: perMinute, Burst: burst, Concurrent: concurrent}
	settings.KeysPerAccount = 1000
	f.Apply(settings)
}

// limited checks a rejection by owner_limits.
func (r reply) limited(retryAfter int) {
	r.t.Helper()
	r.rejected(429, "Too many requests")
	if got := r.header.Get("Retry-After"); got != strconv.Itoa(retryAfter) {
		r.t.Errorf("retry-after %q, want %d", got, retryAfter)
	}
}

func TestOwnersTokenBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.account("a")
		f.account("b")
		id, _ := f.key("a", "")
		f.limitOwners(12, 4, 10)
		mint := func(account string) reply { return f.owner(account, "POST", own, `{"label":"x"}`) }
		for range 4 {
			mint("a").want(201)
		}
		mint("a").limited(5)
		mint("b").want(201) // another account has another bucket
		for range 20 {      // reads are not limited
			f.owner("a", "GET", own, "").want(200)
			f.owner("a", "GET", own+"/"+id+"/usage", "").want(200)
			f.owner("a", "HEAD", own, "").want(200)
		}
		<-time.After(2 * time.Second)
		mint("a").limited(3) // a rejection by the limit takes no token
		<-time.After(3 * time.Second)
		mint("a").want(201)
		mint("a").limited(5)
		for series, want := range map[string]float64{
			`phantom_keyd_owner_writes_rejected_total{limit="rate"}`:                         3,
			`phantom_keyd_owner_writes_rejected_total{limit="concurrent"}`:                   0,
			`phantom_keyd_requests_total{code="429",route="POST ` + own + `",side="owners"}`: 3,
		} {
			if got := f.metric(series); got != want {
				t.Errorf("%s is %v, want %v", series, got, want)
			}
		}

		// A request that is rejected for another reason takes a token.
		<-time.After(time.Minute)
		for _, rejected := range []struct {
			reply
			status int
		}{
			{f.owner("a", "POST", own, `{"label":""}`), 400},
			{f.owner("a", "POST", own, `{"label":"x","scopes":["chat:companion"]}`), 403},
			{f.owner("a", "DELETE", own+"/key_none", ""), 404},
			{f.owner("a", "POST", own+"?wait=1", `{"label":"x"}`), 400},
		} {
			rejected.want(rejected.status)
		}
		mint("a").limited(5)
		<-time.After(5 * time.Second)
		f.operator("POST", "/v1/keys/"+id+"/revoke", "").want(200)
		f.owner("a", "POST", own+"/"+id+"/roll", "").rejected(409)
		f.owner("a", "DELETE", own+"/"+id, "").limited(5)

		// Requests without a session have no account, and the other sides have no limit.
		f.do("owners", request("POST", own, `{"label":"x"}`)).rejected(403)
		for range 10 {
			f.key("a", "")
		}
	})
}

// New limits apply from the next request on.
func TestOwnerLimitsReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.account("a")
		mint := func() reply { return f.owner("a", "POST", own, `{"label":"x"}`) }
		f.limitOwners(1, 1, 1)
		mint().want(201)
		mint().limited(60)
		f.limitOwners(60, 100, 1)
		mint().limited(1)
		<-time.After(10 * time.Second)
		for range 10 {
			mint().want(201)
		}
		f.limitOwners(60, 2, 0)
		mint().limited(1)
		<-time.After(time.Minute)
		f.limitOwners(60, 2, 1)
		mint().want(201)
		mint().want(201)
		mint().limited(1)
		f.Apply(Settings{}) // the zero limits reject all
		mint().rejected(429)
	})
}

// A write counts as concurrent from its headers on, until it only waits for its change to become effective.
func TestOwnersConcurrentWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.account("a")
		f.account("b")
		f.startSidecar("s", `,"max_stale_ms":60000`) // a sidecar that acknowledges nothing
		f.limitOwners(1_000_000, 1_000_000, 2)
		mint := func(account, query string) reply { return f.owner(account, "POST", own+query, `{"label":"x"}`) }

		var waiting sync.WaitGroup
		for range 5 {
			waiting.Go(func() {
				if got := mint("a", "?wait_ms=30000").want(201); got.at("change", "effective") != false {
					t.Errorf("it did not wait: %s", got.raw)
				}
			})
			synctest.Wait()
		}
		mint("a", "").want(201)
		waiting.Wait()

		// Bodies that do not arrive.
		var stalled sync.WaitGroup
		ends := make(chan struct{})
		for range 2 {
			stalled.Go(func() {
				r := request("POST", own, "x")
				r.Body = io.NopCloser(readerFunc(func([]byte) (int, error) { <-ends; return 0, context.DeadlineExceeded }))
				f.send(ownersSide, r).rejected(400, "body could not be read to its end")
			})
		}
		synctest.Wait()
		mint("a", "").limited(1)
		mint("b", "").want(201)
		f.owner("a", "GET", own, "").want(200)
		close(ends)
		stalled.Wait()
		mint("a", "").want(201)
		if left := len(f.writes.inFlight); left != 0 {
			t.Errorf("%d accounts have writes in flight", left)
		}
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A client with many account names gets no more tokens and takes no more memory.
func TestEvictedBucketsAreNotRefilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const accounts = 10
		l := newWriteLimits(accounts, newMetrics(prometheus.NewRegistry()).rejected)
		limits := OwnerLimits{ChangesPerMinute: 60, Burst: 20, Concurrent: 1}
		accepted := 0
		for range 100 {
			for i := range 5 * accounts {
				if release, err := l.begin(fmt.Sprint(i), limits); err == nil {
					accepted++
					release()
				}
			}
		}
		if most := accounts * limits.Burst; accepted > most {
			t.Errorf("%d writes at the same time, want at most %d", accepted, most)
		}
		if got := l.buckets.Len(); got > accounts {
			t.Errorf("%d buckets", got)
		}
		// A later account has the tokens of the time that has passed.
		<-time.After(time.Minute)
		for range limits.Burst {
			release, err := l.begin("late", limits)
			if err != nil {
				t.Fatal(err)
			}
			release()
		}
		if len(l.inFlight) != 0 {
			t.Errorf("in flight: %v", l.inFlight)
		}
	})
}

// 22 accounts send 100 requests each whose bodies never arrive. Of each account as many are admitted as its limit
// allows. The others are rejected without waiting for the body, and another account is not affected.
func TestStalledBodiesDoNotBlockOtherAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const accounts, each, concurrent = 22, 100, 4
		f := setUp(t)
		f.account("good")
		f.limitOwners(60, 200, concurrent)
		conns := make(chan net.Conn)
		server := &http.Server{Handler: f.Owners(), ReadHeaderTimeout: time.Second}
		served := make(chan error, 1)
		go func() { served <- server.Serve(pipeListener{conns}) }()
		post := func(account string, length int, body string) (status int) {
			here, there := net.Pipe()
			defer func() { _ = here.Close() }()
			conns <- there
			_, err := fmt.Fprintf(here, "POST %s HTTP/1.1\r\nHost: keyd\r\n%s: %s\r\n%s: session\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				own, credential.AccountHeader, account, credential.PrincipalHeader, length, body)
			if err != nil {
				t.Error(err)
				return 0
			}
			resp, err := http.ReadResponse(bufio.NewReader(here), nil)
			if err != nil {
				t.Error(err)
				return 0
			}
			_ = resp.Body.Close()
			return resp.StatusCode
		}

		began := time.Now()
		statuses := make(chan int, accounts*each)
		var work sync.WaitGroup
		for i := range accounts * each {
			work.Go(func() { statuses <- post(fmt.Sprint("bad", i%accounts), 100, "{") })
		}
		synctest.Wait()
		if status := post("good", len(`{"label":"x"}`), `{"label":"x"}`); status != http.StatusCreated || time.Since(began) > 0 {
			t.Errorf("the mint of another account: %d after %s", status, time.Since(began))
		}
		work.Wait()
		close(statuses)
		count := map[int]int{}
		for status := range statuses {
			count[status]++
		}
		if count[http.StatusBadRequest] != accounts*concurrent || count[http.StatusTooManyRequests] != accounts*(each-concurrent) {
			t.Errorf("statuses %v, want %d of 400 and the rest 429", count, accounts*concurrent)
		}
		if took := time.Since(began); took > ownersBodyTimeout+httpapi.LingerTimeout {
			t.Errorf("the last answer came after %v", took)
		}
		close(conns)
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}
