package operatorapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// startAPI starts a key API that has two keys.
func startAPI() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/keys/key_1/revoke", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"key":{"id":"key_1","state":"revoked"},"change":{"revision":8,"effective":true}}`)
	})
	mux.HandleFunc("GET /v1/accounts/acc_1/keys", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"keys":[{"id":"key_1","label":"ci"},{"id":"key_2","label":"laptop"}],"next":null}`)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `{"error":"NOT_FOUND","message":"No such account","statusCode":404}`)
	})
	return httptest.NewServer(mux)
}

func token() (credential.Secret, error) { return credential.NewSecret("operator-token"), nil }

func ExampleClient_Do() {
	api := startAPI()
	defer api.Close()
	client, err := operatorapi.New(api.URL, token)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	// Revoke a key, and wait up to a minute until no sidecar accepts it any longer.
	answer, err := client.Do(context.Background(), operatorapi.RevokeKey("key_1").Waiting(operatorapi.MaxWait))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.Key.ID, answer.Key.State)
	fmt.Println("effective:", answer.Change.Effective)
	// Output:
	// key_1 revoked
	// effective: true
}

func ExampleClient_Keys() {
	api := startAPI()
	defer api.Close()
	client, err := operatorapi.New(api.URL, token)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	keys, err := client.Keys(context.Background(), "acc_1")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, key := range keys.Items {
		fmt.Println(key.ID, key.Label)
	}
	// Output:
	// key_1 ci
	// key_2 laptop
}

func ExampleError() {
	api := startAPI()
	defer api.Close()
	client, err := operatorapi.New(api.URL, token)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	_, err = client.Do(context.Background(), operatorapi.GetAccount("acc_9"))
	if failure, ok := errors.AsType[*operatorapi.Error](err); ok {
		fmt.Println(failure.Status, failure.Code)
		fmt.Println("the change may have been made:", failure.OutcomeUnknown)
	}
	// Output:
	// 404 NOT_FOUND
	// the change may have been made: false
}
