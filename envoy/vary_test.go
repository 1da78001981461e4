package envoy_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// TestCheckedAnswersVaryByOrigin: a cache must not return an answer for one origin to another.
func TestCheckedAnswersVaryByOrigin(t *testing.T) {
	forEachInParallel(t, func(t *testing.T, env *environment, s setup) {
		vary := make(chan []string, 1)
		upstream := serve(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Vary"] = <-vary
		}))
		p := env.ownEnvoy(t, s, envoy.Addresses{Upstream: "tcp://" + upstream.addr})
		missing := env.ownWithoutAnswers(t, s)
		grpcCall := []string{"Content-Type: application/grpc", "Te: trailers"}
		for _, origin := range [][]string{nil, {webApp}, {otherOrigin}} {
			for _, http2 := range []bool{false, true} {
				all := request{path: companion, http2: http2}.with(origin...)
				good := all.with(bearer(env.creds.Chat))
				for _, c := range []struct {
					name string
					p    *proxy
					request
					upstreams, want []string
				}{
					{"no credential", p, all, nil, []string{"Origin"}},
					{"denied gRPC call", p, all.with(grpcCall...), nil, []string{"Origin"}},
					{"check without an answer", missing, good, nil, []string{"Origin"}},
					{"check without an answer, gRPC call", missing, good.with(grpcCall...), nil, []string{"Origin"}},
					{"allowed", p, good, []string{}, []string{"Origin"}},
					{"another Vary", p, good, []string{"Accept-Encoding"}, []string{"Accept-Encoding", "Origin"}},
					{"its own Vary: Origin", p, good, []string{"Origin"}, []string{"Origin"}},
					{"list", p, good, []string{"Accept-Encoding, origin"}, []string{"Accept-Encoding", "origin"}},
					{"two lines", p, good, []string{"Origin", "Accept"}, []string{"Origin", "Accept"}},
					{"similar name", p, good, []string{"X-Origin"}, []string{"X-Origin", "Origin"}},
					{"wildcard", p, good, []string{"*"}, []string{"*"}},
				} {
					if c.upstreams != nil {
						vary <- c.upstreams
					}
					got := c.p.do(t, c.request)
					select {
					case <-vary: // the request did not reach the upstream
					default:
					}
					values := strings.FieldsFunc(strings.Join(got.header.Values("Vary"), ","), func(r rune) bool { return r == ',' || r == ' ' })
					if !slices.Equal(values, c.want) {
						t.Errorf("%s, %q, HTTP/2 %v: %d, Vary %q, want %q", c.name, strings.Join(origin, ""), http2, got.status, values, c.want)
					}
				}
			}
		}
	})
}
