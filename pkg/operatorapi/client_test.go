package operatorapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const plaintext = "phk_the-plaintext"

const mintedAnswer = `{"key":{"id":"key_1","account":"acc_1","label":"x","hint":"phk_AbCd","scopes":["a"],"state":"active",` +
	`"created_at":"2026-01-02T03:04:05Z","created_by":"operator:alice","expires_at":null,"revoked_at":null,"last_used_at":null},` +
	`"plaintext":"` + plaintext + `","change":{"revision":7,"effective":false,"effective_by":"2026-01-02T03:19:05Z","waiting_for":["pod-a"]}}`

func token() (credential.Secret, error) { return credential.NewSecret("t"), nil }

func client(t *testing.T, url string) *Client {
	t.Helper()
	c, err := New(url, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func api(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return client(t, server.URL)
}

func TestNew(t *testing.T) {
	for url, good := range map[string]bool{
		"http://127.0.0.1:8081": true, "https://keyd.example:443/prefix/": true, "unix:///run/keyd.sock": true, "http://[::1]:1": true,
		"": false, "127.0.0.1:8081": false, "keyd": false, "tcp://127.0.0.1:8081": false, "http://": false, "http://:80": false, "unix://keyd.sock": false,
		"unix:///": false, "unix:keyd.sock": false, "http://a:b@c": false, "http://a?b": false, "http://a#b": false, "http://a b": false, "http://%zz": false,
	} {
		if _, err := New(url, token); (err == nil) != good {
			t.Errorf("New(%q): %v", url, err)
		}
		good = good && strings.HasPrefix(url, "https:")
		if _, err := NewTLS(url, &tls.Config{MinVersion: tls.VersionTLS12}, token); (err == nil) != good {
			t.Errorf("NewTLS(%q): %v", url, err)
		}
	}
}

func TestRequestsAsInContract(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for want, r := range map[string]Request{
		`POST /v1/accounts {"name":"n"}`:                     CreateAccount("", "n"),
		`POST /v1/accounts {"id":"a","name":"n"}`:            CreateAccount("a", "n"),
		`GET /v1/accounts/a `:                                GetAccount("a"),
		`POST /v1/accounts/a/terminate?wait_ms=60000 `:       TerminateAccount("a").Waiting(time.Hour),
		`POST /v1/accounts/a/reinstate?wait_ms=0 `:           ReinstateAccount("a").Waiting(-1),
		`POST /v1/accounts/a/keys {"label":"l"}`:             MintKey("a", NewKey{Label: "l"}),
		`GET /v1/keys/a%2Fb%3Fc `:                            GetKey("a/b?c"),
		`POST /v1/keys/k/revoke?wait_ms=1500 `:               RevokeKey("k").Waiting(1500 * time.Millisecond),
		`POST /v1/keys/k/revoke {"chain":true}`:              RevokeChain("k"),
		`DELETE /v1/sidecars/pod%2Fa `:                       ForgetSidecar("pod/a"),
		`POST /v1/keys/k/roll {}`:                            RollKey("k", 0),
		`POST /v1/keys/k/roll {"grace_seconds":3600}`:        RollKey("k", time.Hour),
		`PUT /v1/keys/k/scopes/chat:companion `:              GrantScope("k", "chat:companion"),
		`DELETE /v1/keys/k/scopes/chat:companion?wait_ms=1 `: UngrantScope("k", "chat:companion").Waiting(time.Millisecond),
		`POST /v1/accounts/a/sessions {}`:                    MintSession("a", 0),
		`POST /v1/accounts/a/sessions {"ttl_seconds":60}`:    MintSession("a", time.Minute),
		`DELETE /v1/sessions/s `:                             EndSession("s"),
		`GET /v1/revisions/7?wait_ms=1000 `:                  Revision(7).Waiting(time.Second),
		`POST /v1/accounts/a/keys/import {"sha256":"00","label":"l","scopes":["x","y"],"expires_at":"2030-01-02T02:04:05Z"}`: ImportKey("a", "00",
			NewKey{Label: "l", Scopes: []string{"x", "y"}, ExpiresAt: at}),
	} {
		var got string
		c := api(t, func(_ http.ResponseWriter, q *http.Request) {
			body, _ := io.ReadAll(q.Body)
			got = q.Method + " " + q.URL.RequestURI() + " " + string(body)
			if (len(body) > 0) != (q.Header.Get("Content-Type") == "application/json") || q.Header.Get("Authorization") != "Bearer t" {
				t.Errorf("%s: headers %v", got, q.Header)
			}
		})
		if _, err := c.Do(t.Context(), r); err == nil {
			t.Errorf("%s: no error for an empty response", want)
		}
		if got != want {
			t.Errorf("sent %s, want %s", got, want)
		}
	}
	if _, err := api(t, nil).Do(t.Context(), Request{}); err == nil {
		t.Error("no error for the zero Request")
	}
}

func TestListOverUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyd.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"sidecars":[{"name":"pod-a","revision":3}]}`)
	}))
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	list, err := client(t, "unix://"+path).Sidecars(t.Context())
	if err != nil || len(list.Items) != 1 || list.Items[0].Revision != 3 || list.JSON.Reveal() != `{"sidecars":[{"name":"pod-a","revision":3}],"next":null}` {
		t.Errorf("%+v %s, %v", list, list.JSON.Reveal(), err)
	}
}

func TestAnswerHidesSecrets(t *testing.T) {
	c := api(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, mintedAnswer) })
	answer, err := c.Do(t.Context(), MintKey("acc_1", NewKey{Label: "x"}))
	if err != nil || answer.Plaintext.Reveal() != plaintext || answer.JSON.Reveal() != mintedAnswer {
		t.Fatalf("%q, %v", answer.Plaintext.Reveal(), err)
	}
	asJSON, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(answer), fmt.Sprintf("%+v", answer), fmt.Sprintf("%#v", answer), string(asJSON)} {
		if strings.Contains(text, "the-plaintext") {
			t.Errorf("the plaintext is in %s", text)
		}
	}
}

func TestWithChange(t *testing.T) {
	need := []string{"key", "plaintext", "change"}
	first, err := decodeAnswer([]byte(mintedAnswer), need)
	if err != nil {
		t.Fatal(err)
	}
	later, err := decodeAnswer([]byte(`{"change": {"revision":7,"effective":true,"effective_by":null,"waiting_for":[], "more":1}}`), []string{"change"})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(mintedAnswer, `{"revision":7,"effective":false,"effective_by":"2026-01-02T03:19:05Z","waiting_for":["pod-a"]}`,
		`{"revision":7,"effective":true,"effective_by":null,"waiting_for":[], "more":1}`, 1)
	if got := first.WithChange(later); got.JSON.Reveal() != want || !got.Change.Effective || got.Plaintext.Reveal() != plaintext {
		t.Errorf("got  %s\nwant %s", got.JSON.Reveal(), want)
	}
}

func TestOutcomeUnknownIfChangeMayBeMade(t *testing.T) {
	hangUp := func(_ http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	redirect := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			_, _ = io.WriteString(w, mintedAnswer)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		request Request
		unknown bool
		status  int
	}{
		"lost response to a read":          {hangUp, GetKey("k"), false, 0},
		"lost response to a change":        {hangUp, RevokeKey("k"), true, 0},
		"rejected":                         {status(409, `{"error":"CONFLICT","message":"m","statusCode":409}`), RevokeKey("k"), false, 409},
		"failed change":                    {status(503, `{"error":"SERVICE_UNAVAILABLE","message":"m","statusCode":503}`), RevokeKey("k"), true, 503},
		"failed read":                      {status(503, `{}`), GetKey("k"), false, 503},
		"failure of a proxy":               {status(502, `<html>`), RevokeKey("k"), true, 502},
		"success without JSON":             {status(200, `<html>`), RevokeKey("k"), true, 200},
		"success without a required field": {status(200, `{"key":{"id":"k"}}`), RevokeKey("k"), true, 200},
		"undefined success":                {status(204, ``), RevokeKey("k"), true, 204},
		"redirect":                         {redirect, RevokeKey("k"), false, 307},
	} {
		_, err := api(t, c.handler).Do(t.Context(), c.request)
		var failure *Error
		if !errors.As(err, &failure) || failure.OutcomeUnknown != c.unknown || failure.Status != c.status {
			t.Errorf("%s: %+v", name, err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	_, err = client(t, "http://"+listener.Addr().String()).Do(t.Context(), RevokeKey("k"))
	if failure, ok := errors.AsType[*Error](err); !ok || failure.OutcomeUnknown {
		t.Errorf("no listener: %+v", err)
	}
}

// A change that could not be written on an idle connection was not sent, if no other connection can
// be made. A change that the server has read may have been made.
func TestOutcomeOnStaleConnection(t *testing.T) {
	for name, read := range map[string]bool{"nothing is written": false, "the request is read": true} {
		path := filepath.Join(t.TempDir(), "keyd.sock")
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
		if err != nil {
			t.Fatal(err)
		}
		serving := make(chan *net.UnixConn, 1)
		go func() {
			conn, err := listener.AcceptUnix()
			if err == nil {
				err = receive(conn)
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(mintedAnswer), mintedAnswer)
			serving <- conn
		}()
		c := client(t, "unix://"+path)
		if _, err := c.Do(t.Context(), MintKey("a", NewKey{Label: "l"})); err != nil {
			t.Fatal(err)
		}
		conn := <-serving
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			if !info.Reused {
				t.Errorf("%s: a new connection", name)
			}
			_ = listener.Close()
			if !read {
				_ = conn.CloseRead() // writing then fails, which the client does not notice before
				return
			}
			go func() { _ = errors.Join(receive(conn), conn.Close()) }()
		}})
		_, err = c.Do(ctx, RevokeKey("k"))
		if failure, ok := errors.AsType[*Error](err); !ok || failure.OutcomeUnknown != read {
			t.Errorf("%s: %+v", name, err)
		}
		_ = conn.Close()
	}
}

func receive(conn net.Conn) error {
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err == nil {
		_, err = io.Copy(io.Discard, request.Body)
	}
	return err
}

func TestOutcomeUnknownIfCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := api(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}).Do(ctx, RevokeKey("k"))
	if failure, ok := errors.AsType[*Error](err); !ok || !failure.OutcomeUnknown || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v", err)
	}
}

// No response causes a panic, one without a required field is an error, and errors do not repeat
// the response.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		mintedAnswer, `{"key":{"id":"k"},"plaintext":["phk_x"]}`, `{"keys":[{"id":"k"}],"next":"c"}`, `{"keys":[],"next":null}`, `{"keys":[1,2`, `null`, `[]`,
		`{"key":{},"key":{}}`, `{"change":{"revision":1e99}}`, "{\"plaintext\":\"phk_\xff\"}", `{"keys":null}`, `{"keys":[],"next":7}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		answer, err := decodeAnswer(body, []string{"key", "plaintext", "change"})
		switch {
		case err != nil && strings.Contains(err.Error(), "phk_"):
			t.Errorf("%q: error repeats it: %v", body, err)
		case err == nil && (answer.Key == nil || answer.Change == nil || answer.Plaintext.Empty()):
			t.Errorf("%q: accepted without a required field", body)
		case err == nil:
			if _, err := decodeAnswer([]byte(answer.WithChange(answer).JSON.Reveal()), nil); err != nil {
				t.Errorf("%q: WithChange of its own change broke it: %v", body, err)
			}
		}
		page, _, err := decodePage(body, "keys")
		for _, raw := range page {
			if err != nil || !raw.IsValid() {
				t.Errorf("%q: %v, item %s", body, err, raw)
			}
		}
	})
}
