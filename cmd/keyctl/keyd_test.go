package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keyserver"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// The scripts in testdata/keyd use the real key API with an empty database.
func TestScriptsWithKeyd(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/keyd", UpdateScripts: update, Cmds: scriptCommands,
		Setup: func(env *testscript.Env) error {
			const token = "alices-token"
			store, err := sqlite.Open(t.Context(), filepath.Join(env.WorkDir, "keys.db"), sqlite.Options{})
			if err != nil {
				return err
			}
			secret := func() credential.Secret { return credential.NewSecret(token) }
			server := keyserver.New(keyserver.Options{Store: store, Log: zap.NewNop(), Metrics: prometheus.NewRegistry()}, keyserver.Settings{
				SidecarTokens: []keyserver.Token{secret},
				Operators:     []keyserver.Operator{{Name: "alice", Token: secret}},
				Lease:         time.Minute, LongestMaxStale: time.Hour, LogRetention: time.Hour, KeysPerAccount: 100,
				Catalogue: keyserver.Catalogue{"chat:companion": keyserver.ByOperator, "read": keyserver.ByOwner},
			})
			secure, err := serveMutualTLS(env.WorkDir, server.Operators())
			if err != nil {
				return err
			}
			env.Setenv("TLS_URL", secure.URL)
			ctx, stop := context.WithCancel(context.Background())
			ran := make(chan error, 1)
			go func() { ran <- server.Run(ctx) }()
			operators, sidecars := httptest.NewServer(server.Operators()), httptest.NewServer(server.Sidecars())
			env.Defer(func() {
				secure.Close()
				operators.Close()
				sidecars.Close()
				stop()
				if err := <-ran; err != nil {
					t.Error(err)
				}
				if err := store.Close(); err != nil {
					t.Error(err)
				}
			})
			env.Values[sidecarKey{}] = &sidecar{url: sidecars.URL, token: token}
			return operator(env, operators.URL, token)
		},
	})
}

type sidecarKey struct{}

// sidecar polls the change log when the script asks for it.
type sidecar struct {
	url, token, epoch string
	poll, revision    int64
}

// runSidecar implements the commands "sidecar poll", which takes a lease with a max_stale of 15 minutes,
// and "sidecar acknowledge", which acknowledges all later changes.
func runSidecar(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sidecar poll|acknowledge")
	}
	s := ts.Value(sidecarKey{}).(*sidecar)
	switch args[0] {
	case "poll":
		ts.Check(s.changes(sidecarapi.ChangesRequest{After: -1})) // returns only the head
		ts.Check(s.changes(sidecarapi.ChangesRequest{After: s.revision}))
	case "acknowledge":
		ts.Check(s.changes(sidecarapi.ChangesRequest{After: s.revision, WaitMS: 10_000}))
		ts.Check(s.changes(sidecarapi.ChangesRequest{After: s.revision}))
	}
}

func (s *sidecar) changes(ask sidecarapi.ChangesRequest) error {
	s.poll++
	ask.Sidecar, ask.Poll, ask.Epoch, ask.MaxStaleMS = "pod-a", s.poll, s.epoch, (15 * time.Minute).Milliseconds()
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, s.url+sidecarapi.ChangesPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+s.token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	var answer sidecarapi.ChangesResponse // a 410 has its first two fields
	if err := json.UnmarshalRead(response.Body, &answer); err != nil {
		return err
	}
	s.epoch, s.revision = answer.Epoch, answer.Revision
	return nil
}
