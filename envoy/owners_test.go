package envoy_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// noKeyd is Envoy's answer when keyd does not complete a request of an owner.
var noKeyd = denial{status: 503, error: "SERVICE_UNAVAILABLE", message: "The key API did not complete the request", retry: true}

// owner adds a session to the request.
func owner(p *proxy, r request) request { return r.with(webApp, cookie(p.env.creds.Session)) }

func TestOwnersReachKeyd(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		got := p.do(t, owner(p, request{path: "/api/v1/me/keys?limit=1"}))
		if got.status != 200 || !strings.Contains(got.body, p.env.creds.Account) {
			t.Errorf("%d %s", got.status, got.body)
		}
		got = p.do(t, owner(p, request{method: "POST", path: "/api/v1/me/keys", body: `{"label":"x","scopes":["chat:companion"]}`}).
			with("Content-Type: application/json"))
		if got.status != 403 || !strings.Contains(got.body, "Scope is granted by operators only: chat:companion") {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

// TestOwnersTimeouts reads the timeout of each request from a header that Envoy sends to keyd.
func TestOwnersTimeouts(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		keyd := serve(t, env.Socket(unique("owners")), nil)
		p := env.ownEnvoy(t, s, envoy.Addresses{Owners: "unix://" + keyd.addr})
		for target, want := range map[string]string{
			"/api/v1/me/keys": "15000", "/api/v1/me/keys?limit=5": "15000", "/api/v1/me/keys/key_1?chain=true": "15000",
			"/api/v1/me/keys/key_1/roll": "15000", "/api/v1/me/keys?wait%5Fms=5": "15000", "/api/v1/me/keys?x=wait_ms": "15000",
			"/api/v1/me/keys?wait_ms=5": "75000", "/api/v1/me/keys/key_1?chain=true&wait_ms=60000": "75000",
		} {
			p.do(t, owner(p, request{method: "DELETE", path: target}))
			got := (<-keyd.requests).Header.Get("X-Envoy-Expected-Rq-Timeout-Ms")
			if got != want {
				t.Errorf("%s: timeout %s ms, want %s", target, got, want)
			}
		}
	})
}

func TestOwnersWithoutKeyd(t *testing.T) {
	forEachInParallel(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownEnvoy(t, s, envoy.Addresses{Owners: env.socket("missing")})
		for _, target := range []string{"/api/v1/me/keys", "/api/v1/me/keys?wait_ms=60000"} {
			for _, http2 := range []bool{false, true} {
				noKeyd.check(t, p.do(t, owner(p, request{path: target, http2: http2})), corsHeaders...)
			}
		}
		// The sidecar's denials are unchanged.
		sessionRequired.check(t, p.do(t, request{path: "/api/v1/me/keys"}.with(bearer(env.creds.Chat))))
	})
}

// TestOwnersAnswerWhileKeydIsFrozen: keyd accepts connections and never answers. Only a request that waits for its change
// has a long timeout.
func TestOwnersAnswerWhileKeydIsFrozen(t *testing.T) {
	const limit = 20 * time.Second
	forEachInParallel(t, func(t *testing.T, env *environment, s setup) {
		released := make(chan struct{})
		defer close(released)
		keyd := serve(t, env.Socket(unique("owners")), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
		p := env.ownEnvoy(t, s, envoy.Addresses{Owners: "unix://" + keyd.addr})
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		var sending sync.WaitGroup
		for name, r := range map[string]request{
			"list":            {path: "/api/v1/me/keys"},
			"list, HTTP/2":    {path: "/api/v1/me/keys?limit=2", http2: true},
			"mint":            {method: "POST", path: "/api/v1/me/keys", body: `{"label":"x"}`},
			"other spelling":  {method: "DELETE", path: "/api/v1/me/keys/key_1?wait%5Fms=60000"},
			"1 MiB":           {method: "POST", path: "/api/v1/me/keys", body: strings.Repeat(" ", 1<<20), http2: true},
			"incomplete body": request{method: "POST", path: "/api/v1/me/keys"}.with("Content-Length: 20"),
		} {
			sending.Go(func() {
				got, err := p.send(ctx, owner(p, r))
				if diff := cmp.Diff(noKeyd.body(), got.body); err != nil || got.status != 503 || diff != "" {
					t.Errorf("%s: %d, %v (-want +got):\n%s", name, got.status, err, diff)
				}
			})
		}
		sending.Go(func() {
			got, err := p.send(ctx, owner(p, request{method: "DELETE", path: "/api/v1/me/keys/key_1?wait_ms=60000"}))
			if err == nil {
				t.Errorf("a waiting request was answered early: %d %s", got.status, got.body)
			}
		})
		sending.Wait()
	})
}

// TestManyOwnersRequestsWait: more requests wait at keyd than Envoy's default circuit breakers allow, 1,024.
func TestManyOwnersRequestsWait(t *testing.T) {
	const total = 1200
	env := shared(t)
	released := make(chan struct{})
	arrived := make(chan struct{}, total)
	keyd := serve(t, env.Socket("owners-many"), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-released
	}))
	forEach(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownEnvoy(t, s, envoy.Addresses{Owners: "unix://" + keyd.addr})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		failed := make(chan string, total)
		send := func() {
			got, err := p.send(ctx, owner(p, request{path: "/api/v1/me/keys?wait_ms=60000", http2: true}))
			if ctx.Err() == nil {
				failed <- fmt.Sprint(got.status, got.body, err)
			}
		}
		const batch = 50 // larger exceeds the timeout of a check on a busy machine
		for n := range total {
			if n%batch == 0 {
				for range batch {
					go send()
				}
			}
			select {
			case <-arrived:
			case answer := <-failed:
				t.Fatalf("request %d was answered before keyd answered: %s", n, answer)
			case <-ctx.Done():
				t.Fatalf("%d of %d requests arrived", n, total)
			}
		}
	})
	close(released)
}
