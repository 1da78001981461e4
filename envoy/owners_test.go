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

// noKeyd is Envoy's answer to an owner when keyd does not complete the request.
var noKeyd = denial{status: 503, error: "SERVICE_UNAVAILABLE", message: "The key API did not complete the request", retry: true}

func owner(f *front, r request) request { return r.with(webApp, cookie(f.w.held.session)) }

// TestOwners: keyd's owner API is behind the sessions.
func TestOwners(t *testing.T) {
	onEachVersion(t, func(t *testing.T, f *front) {
		got := f.ask(t, owner(f, request{path: "/api/v1/me/keys?limit=1"}))
		if got.status != 200 || !strings.Contains(got.body, f.w.held.account) {
			t.Errorf("%d %s", got.status, got.body)
		}
		got = f.ask(t, owner(f, request{method: "POST", path: "/api/v1/me/keys", body: `{"label":"x","scopes":["chat:companion"]}`}).
			with("Content-Type: application/json"))
		if got.status != 403 || !strings.Contains(got.body, "Scope is granted by operators only: chat:companion") {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

// TestOwnersTimeouts reads the timeout of each request from the header by which Envoy tells it to keyd.
func TestOwnersTimeouts(t *testing.T) {
	w := shared(t)
	keyd := serve(t, w.file("owners-timeouts.sock"), nil)
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			f := w.ownEnvoy(t, version, envoy.Addresses{Owners: "unix://" + keyd.addr})
			for target, want := range map[string]string{
				"/api/v1/me/keys": "15000", "/api/v1/me/keys?limit=5": "15000", "/api/v1/me/keys/key_1?chain=true": "15000",
				"/api/v1/me/keys/key_1/roll": "15000", "/api/v1/me/keys?wait%5Fms=5": "15000", "/api/v1/me/keys?x=wait_ms": "15000",
				"/api/v1/me/keys?wait_ms=5": "75000", "/api/v1/me/keys/key_1?chain=true&wait_ms=60000": "75000",
			} {
				f.ask(t, owner(f, request{method: "DELETE", path: target}))
				got := (<-keyd.requests).Header.Get("X-Envoy-Expected-Rq-Timeout-Ms")
				if got != want {
					t.Errorf("%s: timeout %s ms, want %s", target, got, want)
				}
			}
		})
	}
}

// TestOwnersWithoutKeyd: no socket, or nothing that listens on it.
func TestOwnersWithoutKeyd(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			w := shared(t)
			f := w.ownEnvoy(t, version, envoy.Addresses{Owners: "unix://" + w.file("no-owners.sock")})
			for _, target := range []string{"/api/v1/me/keys", "/api/v1/me/keys?wait_ms=60000"} {
				for _, http2 := range []bool{false, true} {
					noKeyd.check(t, f.ask(t, owner(f, request{path: target, http2: http2})), corsHeaders...)
				}
			}
			// The sidecar's denials are not changed.
			sessionRequired.check(t, f.ask(t, request{path: "/api/v1/me/keys"}.with(bearer(w.held.chat))))
		})
	}
}

// TestOwnersFrozen: keyd takes connections and answers nothing. Only a request that waits for its change gets a long
// time.
func TestOwnersFrozen(t *testing.T) {
	t.Parallel()
	const limit = 20 * time.Second
	w := shared(t)
	released := make(chan struct{})
	keyd := serve(t, w.file("owners-frozen.sock"), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	var asked sync.WaitGroup
	for _, version := range versions() {
		f := w.ownEnvoy(t, version, envoy.Addresses{Owners: "unix://" + keyd.addr})
		for name, r := range map[string]request{
			"list":                    {path: "/api/v1/me/keys"},
			"list, HTTP/2":            {path: "/api/v1/me/keys?limit=2", http2: true},
			"mint":                    {method: "POST", path: "/api/v1/me/keys", body: `{"label":"x"}`},
			"other spelling":          {method: "DELETE", path: "/api/v1/me/keys/key_1?wait%5Fms=60000"},
			"1 MiB":                   {method: "POST", path: "/api/v1/me/keys", body: strings.Repeat(" ", 1<<20), http2: true},
			"a body that never comes": request{method: "POST", path: "/api/v1/me/keys"}.with("Content-Length: 20"),
		} {
			asked.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				got, err := f.send(ctx, owner(f, r))
				if err != nil {
					t.Errorf("Envoy %s, %s: %v", version, name, err)
					return
				}
				if diff := cmp.Diff(noKeyd.body(), got.body); got.status != 503 || diff != "" {
					t.Errorf("Envoy %s, %s: %d (-want +got):\n%s", version, name, got.status, diff)
				}
			})
		}
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			got, err := f.send(ctx, owner(f, request{method: "DELETE", path: "/api/v1/me/keys/key_1?wait_ms=60000"}))
			if err == nil {
				t.Errorf("Envoy %s: a request that waits was answered early: %d %s", version, got.status, got.body)
			}
		})
	}
	asked.Wait()
	close(released)
}

// TestOwnersRequestsAreNotLimitedByTheirNumber has more requests wait at keyd than Envoy's default circuit breakers
// allow, 1,024.
func TestOwnersRequestsAreNotLimitedByTheirNumber(t *testing.T) {
	const total = 1200
	w := shared(t)
	released := make(chan struct{})
	arrived := make(chan struct{}, total)
	keyd := serve(t, w.file("owners-many.sock"), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-released
	}))
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			// The check is not what is tested: this sidecar allows all.
			socket := w.file("owners-many-" + version + ".sock")
			serveChecks(t, socket, allowAll)
			f := w.ownEnvoy(t, version, envoy.Addresses{Owners: "unix://" + keyd.addr, Authz: "unix://" + socket})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			failed := make(chan string, total)
			begin := func() {
				got, err := f.send(ctx, request{path: "/api/v1/me/keys?wait_ms=60000", http2: true})
				if ctx.Err() == nil {
					failed <- fmt.Sprint(got.status, got.body, err)
				}
			}
			const together = 50 // more at a time could be too many for the check's timeout on a busy machine
			for n := range total {
				if n%together == 0 {
					for range together {
						go begin()
					}
				}
				select {
				case <-arrived:
				case answer := <-failed:
					t.Fatalf("request %d was answered before keyd did: %s", n, answer)
				case <-ctx.Done():
					t.Fatalf("%d of %d requests arrived", n, total)
				}
			}
		})
	}
	close(released)
}
