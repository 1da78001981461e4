package keyserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// failingStore fails in every method. Its error has internals that no caller may see.
type failingStore struct{ keystore.Store }

var errStore = errors.New("sqlite: disk I/O error (522) at /var/lib/phantom/keys.db")

func (failingStore) CreateAccount(context.Context, string, string, string) (keystore.Account, error) {
	return keystore.Account{}, errStore
}

func (failingStore) Account(context.Context, string) (keystore.Account, error) {
	return keystore.Account{}, errStore
}

func (failingStore) Accounts(context.Context, keystore.Page) ([]keystore.Account, string, error) {
	return nil, "", errStore
}

func (failingStore) SetAccountState(context.Context, string, string, credential.State) (keystore.Account, error) {
	return keystore.Account{}, errStore
}

func (failingStore) CreateKey(context.Context, string, keystore.NewKey) (keystore.Key, error) {
	return keystore.Key{}, errStore
}

func (failingStore) Key(context.Context, string) (keystore.Key, error) {
	return keystore.Key{}, errStore
}

func (failingStore) Keys(context.Context, string, keystore.Page) ([]keystore.Key, string, error) {
	return nil, "", errStore
}

func (failingStore) RevokeKey(context.Context, string, string, string) (keystore.Key, error) {
	return keystore.Key{}, errStore
}

func (failingStore) RevokeChain(context.Context, string, string, string) (keystore.RevokedChain, error) {
	return keystore.RevokedChain{}, errStore
}

func (failingStore) RollKey(context.Context, string, keystore.Roll) (successor, replaced keystore.Key, err error) {
	return keystore.Key{}, keystore.Key{}, errStore
}

func (failingStore) SetKeyScope(context.Context, string, string, string, bool) (keystore.Key, error) {
	return keystore.Key{}, errStore
}

func (failingStore) CreateSession(context.Context, string, keystore.NewSession) (keystore.Session, error) {
	return keystore.Session{}, errStore
}

func (failingStore) EndSession(context.Context, string, string) (keystore.Session, error) {
	return keystore.Session{}, errStore
}

func (failingStore) Events(context.Context, string, string, keystore.Page) ([]keystore.Event, string, error) {
	return nil, "", errStore
}

func (failingStore) KeyUsage(context.Context, keystore.UsageSpan, keystore.Page) ([]keystore.UsageHour, string, error) {
	return nil, "", errStore
}
func (failingStore) RecordUsage(context.Context, string, []keystore.Usage) error { return errStore }
func (failingStore) Resolve(context.Context, []credential.Digest) (keystore.Head, []keystore.Fact, error) {
	return keystore.Head{}, nil, errStore
}

func (failingStore) Head(context.Context) (keystore.Head, error) { return keystore.Head{}, errStore }

func (failingStore) Changes(context.Context, string, int64, int) (keystore.Head, []keystore.Change, error) {
	return keystore.Head{}, nil, errStore
}

func (failingStore) RecordPoll(context.Context, keystore.Poll) (keystore.Head, time.Duration, error) {
	return keystore.Head{}, 0, errStore
}

func (failingStore) Forget(context.Context, string, string) (keystore.Sidecar, error) {
	return keystore.Sidecar{}, errStore
}

func (failingStore) Sidecars(context.Context, keystore.Page) (keystore.Head, []keystore.Sidecar, string, error) {
	return keystore.Head{}, nil, "", errStore
}

func (failingStore) Progress(context.Context, int64) (keystore.Head, keystore.Progress, error) {
	return keystore.Head{}, keystore.Progress{}, errStore
}

func (failingStore) Leases(context.Context) (keystore.Head, keystore.Leases, error) {
	return keystore.Head{}, keystore.Leases{}, errStore
}

func (failingStore) Prune(context.Context, time.Duration) error { return errStore }

// goodBodies pass the checks, so that the request reaches the store.
var goodBodies = map[string]string{
	"/v1/accounts":                  `{"name":"x"}`,
	"/v1/accounts/{id}/keys":        `{"label":"x"}`,
	"/v1/accounts/{id}/keys/import": `{"label":"x","sha256":"` + strings.Repeat("a", 64) + `"}`,
	own:                             `{"label":"x"}`,
	"/v1/resolve":                   `{"credentials":["` + strings.Repeat("a", 64) + `"]}`,
	"/v1/changes":                   `{"sidecar":"s","poll":1,"after":-1}`,
	"/v1/usage":                     `{"sidecar":"s","used":[]}`,
}

func TestFailingStore(t *testing.T) {
	f := setUpOn(t, func(s keystore.Store) keystore.Store { return failingStore{s} })
	sent := 0
	for side, rows := range routesOf(f) {
		for _, row := range rows {
			bodies := []string{""}
			if row.Method == http.MethodPost && goodBodies[row.Path] != "" {
				bodies = []string{goodBodies[row.Path]}
			}
			if row.Path == "/v1/changes" {
				bodies = append(bodies, `{"sidecar":"s","poll":1,"after":1,"epoch":"e"}`, `{"sidecar":"s","poll":1,"after":1,"leave":true}`)
			}
			for _, body := range bodies {
				var r reply
				switch side {
				case "operators":
					r = f.operator(row.Method, example(row.Path), body)
				case "owners":
					r = f.owner("a", row.Method, example(row.Path), body)
				case "sidecars":
					r = f.sidecar(row.Path, body)
				}
				if strings.Contains(r.raw, "sqlite") || strings.Contains(r.raw, "/var/lib") {
					t.Errorf("%s %s shows internals: %s", row.Method, row.Path, r.raw)
				}
				r.rejected(503)
				changes := side != sidecarsSide && row.Method != http.MethodGet
				if unknown := strings.Contains(r.raw, unknownOutcome); unknown != changes {
					t.Errorf("%s %s: %s", row.Method, row.Path, r.raw)
				}
				if r.header.Get("Retry-After") != "1" {
					t.Errorf("%s %s: no retry-after", row.Method, row.Path)
				}
				sent++
			}
		}
	}
	if logged := f.logs.FilterMessage("the store failed").FilterField(zap.Error(errStore)).Len(); logged < sent {
		t.Errorf("%d failures, %d in the log", sent, logged)
	}
	var counted int
	for _, line := range f.scrape() {
		var n int
		if _, err := fmt.Sscanf(line[strings.LastIndex(line, " ")+1:], "%d", &n); err == nil &&
			strings.HasPrefix(line, "phantom_keyd_store_errors_total") && strings.Contains(line, "s\"}") { // a side, not a loop
			counted += n
		}
	}
	if counted != sent {
		t.Errorf("%d failures, %v counted", sent, counted)
	}
	if got := f.scrape(); !slices.Contains(got, "phantom_keyd_sidecars NaN") {
		t.Error("the number of sidecars is not NaN")
	}
}

// scrape reads the metrics.
func (f *fixture) scrape() []string {
	f.t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(f.reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return strings.Split(strings.TrimSpace(w.Body.String()), "\n")
}

// A cancelled request is not a failure of the store.
func TestDisconnectedClientIsNotLogged(t *testing.T) {
	f := setUp(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := request("GET", "/v1/accounts", "").WithContext(ctx)
	r.Header.Set("Authorization", "Bearer "+aliceToken)
	f.do("operators", r).rejected(503)
	if f.logs.Len() > 0 {
		t.Errorf("logged: %v", f.logs.All())
	}
}

func TestMetrics(t *testing.T) {
	f := setUp(t)
	f.account("a")
	f.operator("GET", "/v1/accounts/nope", "").rejected(404)
	f.operator("FROB", "/v1/accounts", "").rejected(405)
	f.operator("GET", "/random/"+strings.Repeat("x", 100), "").rejected(404)
	_, plaintext := f.key("a", "")
	f.sidecar("/v1/resolve", fmt.Sprintf(`{"credentials":[%q,%q]}`, digestOf(plaintext), strings.Repeat("0", 64))).want(200)
	f.startSidecar("s", "")
	if err := f.countSidecars(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := f.scrape()
	for _, line := range []string{
		`phantom_keyd_requests_total{code="405",route="/v1/accounts",side="operators"} 1`,
		`phantom_keyd_requests_total{code="404",route="GET /v1/accounts/{id}",side="operators"} 1`,
		`phantom_keyd_requests_total{code="201",route="POST /v1/accounts",side="operators"} 1`,
		`phantom_keyd_requests_total{code="201",route="POST /v1/accounts/{id}/keys",side="operators"} 1`,
		`phantom_keyd_requests_total{code="200",route="POST /v1/changes",side="sidecars"} 1`,
		`phantom_keyd_requests_total{code="410",route="POST /v1/changes",side="sidecars"} 1`,
		`phantom_keyd_requests_total{code="200",route="POST /v1/resolve",side="sidecars"} 1`,
		`phantom_keyd_requests_total{code="404",route="other",side="operators"} 1`,
		`phantom_keyd_request_duration_seconds_count{route="POST /v1/resolve",side="sidecars"} 1`,
		`phantom_keyd_resolved_digests_total{found="false"} 1`,
		`phantom_keyd_resolved_digests_total{found="true"} 1`,
		`phantom_keyd_sidecars 1`,
	} {
		if !slices.Contains(got, line) {
			t.Errorf("no %s", line)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(got, "\n"))
	}
}
