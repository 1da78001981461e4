package keyserver

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// Keys and tokens are sent in their own and in wrong places. Then the logs, the metrics and the database are searched
// for them.
func TestNoPlaintextIsKept(t *testing.T) {
	for name, wrap := range map[string]func(keystore.Store) keystore.Store{
		"healthy": nil,
		"failing": func(s keystore.Store) keystore.Store { return failingPolls{s} },
	} {
		t.Run(name, func(t *testing.T) {
			f := setUpOn(t, wrap)
			f.account("a")
			secrets := f.useAll()
			secrets = append(secrets, aliceToken, sidecarToken, bobToken)
			var digests []string
			for _, s := range secrets {
				digests = append(digests, digestOf(s))
			}
			search(t, "the log", f.logged(), append(secrets, digests...))
			search(t, "the metrics", strings.Join(f.scrape(), "\n"), append(secrets, digests...))
			files, err := filepath.Glob(f.path + "*")
			if err != nil || len(files) < 2 {
				t.Fatalf("the database's files: %v %v", files, err)
			}
			whole := ""
			for _, file := range files {
				raw, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				whole += string(raw)
				search(t, file, string(raw), secrets)
			}
			// The search works: it finds the hints of the keys.
			if !strings.Contains(whole, secrets[0][:credential.HintLen]) {
				t.Error("no hint in the database: is this the right file?")
			}
		})
	}
}

func search(t *testing.T, where, text string, secrets []string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("%s has the secret or digest that begins with %.8s", where, s)
		}
	}
}

func (f *fixture) logged() string {
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"})
	var all strings.Builder
	for _, entry := range f.logs.All() {
		line, err := encoder.EncodeEntry(entry.Entry, entry.Context)
		if err != nil {
			f.t.Fatal(err)
		}
		all.WriteString(line.String())
	}
	return all.String()
}

// useAll uses every operation and returns the plaintexts, keys first.
func (f *fixture) useAll() []string {
	f.t.Helper()
	id, key := f.key("a", `,"scopes":["chat:companion"]`)
	rolled := f.operator("POST", "/v1/keys/"+id+"/roll", `{"grace_seconds":60}`).want(201)
	own := f.owner("a", "POST", own, `{"label":"own"}`).want(201)
	session := f.operator("POST", "/v1/accounts/a/sessions", "").want(201)
	secrets := []string{key, rolled.text("plaintext"), own.text("plaintext"), session.text("token")}
	f.operator("DELETE", "/v1/sessions/"+session.text("session", "id"), "").want(200)
	f.operator("POST", "/v1/keys/"+id+"/revoke", "").want(200)
	for _, s := range secrets {
		f.sidecar("/v1/resolve", fmt.Sprintf(`{"credentials":[%q]}`, digestOf(s))).want(200)
		f.poll("s", -1, "", "")
		f.poll("s", 0, digestOf(s), "")
		for _, wrong := range []reply{
			f.sidecar("/v1/resolve", fmt.Sprintf(`{"credentials":[%q]}`, s)),
			f.operator("GET", "/v1/keys/"+s, ""),
			f.operator("PUT", "/v1/keys/"+id+"/scopes/"+s, ""),
			f.operator("GET", "/v1/accounts?cursor="+url.QueryEscape(s), ""),
			f.operator("GET", "/v1/audit?key=%20"+s, ""),
			f.operator("GET", "/v1/revisions/"+s, ""),
			f.operator("GET", "/"+s, ""),
			f.operator("POST", "/v1/accounts/a/keys", fmt.Sprintf(`{"label":"x","scopes":[%q]}`, s)),
			f.operator("POST", "/v1/accounts/a/keys", fmt.Sprintf(`{"label":"x","expires_at":%q}`, s)),
			f.operator("POST", "/v1/accounts/a/keys", s),
			f.operator("POST", "/v1/accounts/a/keys/import", fmt.Sprintf(`{"label":"x","sha256":%q}`, s)),
			f.operator("POST", "/v1/accounts/a/keys/import", fmt.Sprintf(`{"label":"x","sha256":%q}`, digestOf(s))),
			f.operator("POST", "/v1/accounts", fmt.Sprintf(`{"name":"x","id":%q}`, s+" ")),
		} {
			if wrong.status < 400 || strings.Contains(wrong.raw, s) || strings.Contains(wrong.raw, digestOf(s)) {
				f.t.Errorf("%d, or the answer repeats the secret: %s", wrong.status, wrong.raw)
			}
		}
		r := request("GET", "/v1/accounts", "")
		r.Header.Set("Authorization", "Bearer "+s)
		f.do("operators", r).rejected(401)
	}
	for _, list := range []string{"/v1/accounts/a/keys", "/v1/keys/" + id, "/v1/audit", "/v1/sidecars"} {
		search(f.t.(*testing.T), list, f.operator("GET", list, "").want(200).raw, secrets)
	}
	return secrets
}

// Only the encoder of responses shows a plaintext.
func TestPlaintextIsRedacted(t *testing.T) {
	secret := credential.Mint(credential.Key)
	body := operatorapi.Answer{Plaintext: operatorapi.Plaintext{Secret: secret}}
	v1, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", body, body, body), fmt.Sprint(httpapi.Response{Body: body}), string(v1)} {
		if strings.Contains(text, secret.Reveal()) {
			t.Errorf("shown: %s", text)
		}
	}
}
