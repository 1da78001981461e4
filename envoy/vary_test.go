package envoy_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// TestEveryCheckedAnswerVariesByOrigin: a cache must not give the answer for one origin to another.
func TestEveryCheckedAnswerVariesByOrigin(t *testing.T) {
	t.Parallel()
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			w := shared(t)
			vary := make(chan []string, 1)
			upstream := serve(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Vary"] = <-vary
			}))
			f := w.ownEnvoy(t, version, envoy.Addresses{Upstream: "tcp://" + upstream.addr})
			gone := w.ownEnvoy(t, version, envoy.Addresses{Authz: "unix://" + w.file("nobody.sock"), Upstream: "tcp://" + upstream.addr})
			grpcCall := []string{"Content-Type: application/grpc", "Te: trailers"}
			for _, origin := range [][]string{nil, {webApp}, {foreignPage}} {
				for _, http2 := range []bool{false, true} {
					all := request{path: companion, http2: http2}.with(origin...)
					good := all.with(bearer(w.held.chat))
					for _, c := range []struct {
						name string
						f    *front
						request
						upstreams, want []string
					}{
						{"no credential", f, all, nil, []string{"Origin"}},
						{"denied gRPC call", f, all.with(grpcCall...), nil, []string{"Origin"}},
						{"sidecar gone", gone, good, nil, []string{"Origin"}},
						{"sidecar gone, gRPC call", gone, good.with(grpcCall...), nil, []string{"Origin"}},
						{"allowed", f, good, []string{}, []string{"Origin"}},
						{"another Vary", f, good, []string{"Accept-Encoding"}, []string{"Accept-Encoding", "Origin"}},
						{"its own Vary: Origin", f, good, []string{"Origin"}, []string{"Origin"}},
						{"a list", f, good, []string{"Accept-Encoding, origin"}, []string{"Accept-Encoding", "origin"}},
						{"two lines", f, good, []string{"Origin", "Accept"}, []string{"Origin", "Accept"}},
						{"a similar name", f, good, []string{"X-Origin"}, []string{"X-Origin", "Origin"}},
						{"everything", f, good, []string{"*"}, []string{"*"}},
					} {
						if c.upstreams != nil {
							vary <- c.upstreams
						}
						got := c.f.ask(t, c.request)
						values := strings.FieldsFunc(strings.Join(got.header.Values("Vary"), ","), func(r rune) bool { return r == ',' || r == ' ' })
						if !slices.Equal(values, c.want) {
							t.Errorf("%s, %q, HTTP/2 %v: %d, Vary %q, want %q", c.name, strings.Join(origin, ""), http2, got.status, values, c.want)
						}
					}
				}
			}
		})
	}
}
