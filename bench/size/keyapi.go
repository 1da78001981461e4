package main

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const epoch = "bench"

var scopeSets = []credential.Scopes{
	{},
	credential.NewScopes("chat:companion"), credential.NewScopes("chat:companion", "images:create"),
	credential.NewScopes("billing:read", "chat:companion", "images:create"),
}

// keyAPI has every digest on record, and no changes.
type keyAPI struct{ accounts int }

// serveKeyAPI serves a key API at a socket.
func serveKeyAPI(socket string, accounts int) (*http.Server, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	api, mux := keyAPI{accounts: max(1, accounts)}, http.NewServeMux()
	mux.HandleFunc(sidecarapi.ResolvePath, api.resolve)
	mux.HandleFunc(sidecarapi.ChangesPath, api.changes)
	mux.HandleFunc(sidecarapi.UsagePath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	return server, nil
}

func (a keyAPI) resolve(w http.ResponseWriter, r *http.Request) {
	var request sidecarapi.ResolveRequest
	if !read(w, r, &request) {
		return
	}
	response := sidecarapi.ResolveResponse{Epoch: epoch, Credentials: make([]sidecarapi.Credential, len(request.Credentials))}
	for i, text := range request.Credentials {
		d, err := credential.ParseDigest(text)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response.Credentials[i] = sidecarapi.CredentialOf(d, true, a.record(d))
	}
	write(w, http.StatusOK, response)
}

// record makes the facts about a digest. The ids are as long as those of keyd.
func (a keyAPI) record(d credential.Digest) credential.Record {
	account := binary.LittleEndian.Uint64(d[:]) % uint64(a.accounts)
	return credential.Record{
		Kind: credential.Key, ID: "key_" + hex.EncodeToString(d[10:20]), State: credential.Active,
		Scopes:  scopeSets[int(d[20])%len(scopeSets)],
		Account: credential.Account{ID: fmt.Sprintf("acc_%020d", account), State: credential.Active},
	}
}

// changes holds a poll for its wait, and renews the lease.
func (a keyAPI) changes(w http.ResponseWriter, r *http.Request) {
	var poll sidecarapi.ChangesRequest
	switch {
	case !read(w, r, &poll):
	case poll.After < 0:
		write(w, http.StatusGone, sidecarapi.GoneResponse{Epoch: epoch})
	default:
		select {
		case <-time.After(time.Duration(poll.WaitMS) * time.Millisecond):
		case <-r.Context().Done():
		}
		write(w, http.StatusOK, sidecarapi.ChangesResponse{Epoch: epoch, Changes: []sidecarapi.Change{}, LeaseMS: 15_000})
	}
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(r.Body).Decode(into)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return err == nil
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails if the sidecar has gone
}
