package keyserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// importing is the line of the n-th key.
func importing(n int) string {
	return fmt.Sprintf(`{"account":"a","sha256":%q,"label":"key %d"}`, digestOf(fmt.Sprint("imported ", n)), n)
}

func join(lines ...string) string { return strings.Join(lines, "\n") + "\n" }

func manyLines(from, to int) string {
	var b strings.Builder
	for n := from; n < to; n++ {
		b.WriteString(importing(n) + "\n")
	}
	return b.String()
}

// importMessage is one line of the answer.
type importMessage struct {
	Lines, Imported, Existing int
	Change                    *struct{ Revision int64 }
	Error, Message            string
	StatusCode                int
}

func (r reply) lines() (all []importMessage) {
	r.t.Helper()
	if got := r.header.Get("Content-Type"); r.status != 200 || got != httpapi.LinesMedia {
		r.t.Fatalf("%d, content-type %q: %s", r.status, got, r.raw)
	}
	for line := range strings.Lines(r.raw) {
		var one importMessage
		if err := json.Unmarshal([]byte(line), &one); err != nil || !strings.HasSuffix(line, "\n") {
			r.t.Fatalf("%q: %v", line, err)
		}
		all = append(all, one)
	}
	return all
}

func (f *fixture) imports(body string) reply {
	f.t.Helper()
	return f.operator("POST", importPath, body)
}

func (f *fixture) keysOf(account string) int {
	f.t.Helper()
	keys, _, err := f.store.Keys(f.t.Context(), account, keystore.Page{Limit: 1000})
	if err != nil {
		f.t.Fatal(err)
	}
	return len(keys)
}

func TestImportKeys(t *testing.T) {
	f := setUp(t)
	f.account("a")
	f.account("b")
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second).Format(time.RFC3339)
	body := join(importing(1), "", " \t\r",
		`{"account":"b","sha256":"`+digestOf("x")+`","label":"Läbel \u0026 more","scopes":["write","read"],"expires_at":"`+expires+`"}`+"\r",
		importing(1)) + `{"label":"no end of line","sha256":"` + digestOf("y") + `","account":"b","scopes":null,"expires_at":null}`
	raw := f.imports(body)
	want := `{"lines":6,"imported":3,"existing":1}` + "\n" +
		`{"lines":6,"imported":3,"existing":1,"change":{"revision":5,"effective":true,"effective_by":null,"waiting":0,"waiting_for":[]}}` + "\n"
	if raw.lines(); raw.raw != want {
		t.Errorf("got %s\nwant %s", raw.raw, want)
	}
	got := f.operator("GET", "/v1/accounts/b/keys", "").want(200)
	keys := got.at("keys").([]any)
	key := keys[0].(map[string]any)
	if len(keys) != 2 || key["label"] != "Läbel & more" || key["hint"] != nil || key["expires_at"] != expires ||
		fmt.Sprint(key["scopes"]) != "[read write]" || key["created_by"] != "operator:alice" || !strings.HasPrefix(key["id"].(string), "key_") {
		t.Error(got.raw)
	}
	again := f.imports(body).lines()
	if last := again[len(again)-1]; last.Imported != 0 || last.Existing != 4 || last.Change.Revision != 5 {
		t.Errorf("again: %+v", again)
	}
	if none := f.imports("").lines(); len(none) != 1 || none[0].Lines != 0 || none[0].Change.Revision != 0 {
		t.Errorf("nothing: %+v", none)
	}
	f.startSidecar("s", "")
	waited := f.operator("POST", importPath+"?wait_ms=1", importing(2)).lines()
	if last := waited[len(waited)-1]; last.Change == nil || last.Change.Revision != 6 {
		t.Errorf("%+v", waited)
	}
}

// Each row has a line, the status and a part of the message.
func TestImportRejections(t *testing.T) {
	f := setUp(t)
	f.account("a")
	f.account("gone")
	id, plaintext := f.key("a", "")
	session := f.operator("POST", "/v1/accounts/a/sessions", "").want(201).text("token")
	f.operator("POST", "/v1/accounts/gone/terminate", "").want(200)
	f.account("b")
	digest := digestOf("new")
	with := func(field, value string) string {
		fields := map[string]json.RawMessage{"account": []byte(`"a"`), "sha256": []byte(`"` + digest + `"`), "label": []byte(`"x"`)}
		if fields[field] = []byte(value); value == "" {
			delete(fields, field)
		}
		line, _ := json.Marshal(fields)
		return string(line)
	}
	for _, m := range []struct {
		line   string
		status int
		names  string
	}{
		{`{}`, 400, "account is required"},
		{with("account", ""), 400, "account is required"},
		{with("account", `"a b"`), 400, "account must be"},
		{with("account", `7`), 400, "account must be a string"},
		{with("account", `"none"`), 404, "No such account"},
		{with("account", `"gone"`), 409, "Account has been terminated: gone"},
		{with("sha256", ""), 400, "sha256 is required"},
		{with("sha256", `"`+digest[1:]+`g"`), 400, "sha256 must be 64 hexadecimal digits"},
		{with("sha256", `"`+plaintext+`"`), 400, "sha256 must be"},
		{`{"account":"b","label":"x","sha256":"` + digestOf(plaintext) + `"}`, 409, "A credential with this SHA-256 exists already"},
		{with("sha256", `"`+digestOf(session)+`"`), 409, "A credential with this SHA-256 exists already"},
		{with("label", ""), 400, "label is required"},
		{with("label", `"a\u202eb"`), 400, "label must not have"},
		{with("scopes", `["read","x"]`), 400, "scopes must be of the catalogue: chat:companion, read, write"},
		{with("scopes", `"read"`), 400, "scopes must be a list"},
		{with("expires_at", `"2001-01-01T00:00:00Z"`), 400, "expires_at must be in the future"},
		{with("expires_at", `"2999-02-30T00:00:00Z"`), 400, "expires_at must be a time"},
		{with("plaintext", `"x"`), 400, "plaintext is not a known field"},
		{with("Label", `"x"`), 400, "Label is not a known field"},
		{with("id", `"key_1"`), 400, "id is not a known field"},
		{`{"label":"x","label":"x"}`, 400, "label is given more than once"},
		{`[]`, 400, "must be a JSON object"},
		{`null`, 400, "account is required"},
		{with("label", "") + with("label", ""), 400, "is not valid JSON"},
		{`{"account":"a"`, 400, "is not valid JSON"},
		{"\ufeff\ufeff" + with("", ""), 400, "must be a JSON object"},
		{with("", "") + "\r" + with("", ""), 400, "is not valid JSON"}, // a carriage return alone ends no line
		{`{"label":"` + strings.Repeat("x", httpapi.MaxLine) + `"}`, 413, "must have at most 16384 bytes"},
	} {
		for _, place := range []int{1, 3} {
			body := m.line
			if place == 3 {
				body = join(importing(1), "", m.line, importing(2))
			}
			got := f.imports(body)
			got.rejected(m.status, fmt.Sprintf("line %d: %s", place, m.names), "; nothing is imported")
			for _, secret := range []string{plaintext, digestOf(plaintext), session, digest} {
				if strings.Contains(got.raw, secret) {
					t.Errorf("the message repeats a value: %s", got.raw)
				}
			}
		}
	}
	for _, ct := range []string{"", "application/json", "text/plain", "nonsense;;"} {
		r := request("POST", importPath, importing(1))
		r.Header.Set("Content-Type", ct)
		f.send("operators", r).rejected(415, httpapi.LinesMedia)
	}
	r := request("POST", importPath, importing(1))
	f.do("operators", r).rejected(401)
	f.operator("GET", importPath, "").rejected(405, "POST")
	f.operator("POST", importPath+"?limit=1", "").rejected(400, "limit")
	if f.keysOf("a") != 1 || f.keysOf("b") != 0 {
		t.Error("something was imported")
	}
	f.operator("GET", "/v1/keys/"+id, "").want(200)
}

// A rejection describes the first ten mistakes of a part and counts the others. The parts before it are imported.
func TestImportReportsAllMistakes(t *testing.T) {
	f := setUp(t).smallParts()
	f.account("a")
	body := strings.Repeat("{}\n", 13)
	f.imports(importing(0)+"\n"+body).rejected(400, "line 2: account is required; line 3: ", "line 11: account is required; and 3 more; nothing is imported")
	body = strings.ReplaceAll(manyLines(0, 12), `"a"`, `"none"`)
	f.imports(body).rejected(404, "line 1: No such account; line 2: ", "line 10: No such account; and 2 more; nothing is imported")

	lines := f.imports(manyLines(0, partKeys) + importing(1) + "\n{}\n" + importing(7)).lines()
	want := fmt.Sprintf("line %d: account is required; the lines up to %d are imported (%d new, 0 existing), none after them",
		partKeys+2, partKeys, partKeys)
	if len(lines) != 2 || lines[0].Imported != partKeys || lines[1].StatusCode != 400 || lines[1].Error != "BAD_REQUEST" || lines[1].Message != want {
		t.Errorf("%+v", lines)
	}
}

// FuzzImport sends a stream twice. Each answer is well formed, no line is counted twice, and the second time all keys
// exist.
func FuzzImport(f *testing.F) {
	good := importing(1)
	for _, seed := range []string{
		"", "\n", " \r\n\n", good, good + "\n" + importing(2) + "\n", good + good, good + "\r\n", "{}\n{}", "[]", "null\n", "\xff", "\x00", "\ufeff" + good,
		strings.Replace(good, `"a"`, `"b"`, 1), strings.Replace(good, `"a"`, `null`, 1), strings.Replace(good, `"key`, `"\u202e`, 1),
		strings.Replace(good, `}`, `,"scopes":["read","read"],"expires_at":"2999-01-01T00:00:00.123456789+23:59"}`, 1),
		strings.Replace(good, `}`, `,"scopes":["phk_0000000000000000000000000000000002ghCq"]}`, 1),
		strings.Replace(good, `}`, `,"label":"x"}`, 1), `{"a":` + strings.Repeat("[", 1000), strings.Repeat(" ", httpapi.MaxLine+1), strings.Repeat("x", httpapi.MaxLine+1),
		strings.Repeat("\n", 20000), `{"account":"a","sha256":"phk_0000000000000000000000000000000002ghCq","label":"x"}`,
	} {
		f.Add([]byte(seed))
	}
	s := setUp(f)
	s.account("a")
	s.account("b")
	f.Fuzz(func(t *testing.T, body []byte) {
		s.t = t
		first := s.imports(string(body))
		if strings.Contains(first.raw, "phk_000000") {
			t.Fatalf("the message repeats a value: %s", first.raw)
		}
		if first.status != 200 {
			checkAnswer(t, first, "import")
			return
		}
		last := func(r reply) importMessage { all := r.lines(); return all[len(all)-1] }
		was := last(first)
		if was.Change == nil { // a mistake after the first part
			return
		}
		again := last(s.imports(string(body)))
		if again.Imported != 0 || again.Existing != was.Imported+was.Existing || again.Lines != was.Lines {
			t.Fatalf("first %+v, again %+v", was, again)
		}
	})
}

// Ids and digests ascend within a part, and each key has the values of its line.
func TestImportSortsIDsAndDigests(t *testing.T) {
	f := setUp(t)
	f.account("a")
	f.imports(manyLines(0, 500)).lines()
	keys, _, err := f.store.Keys(t.Context(), "a", keystore.Page{Limit: 1000})
	if err != nil || len(keys) != 500 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	labels := map[string]bool{}
	for _, k := range keys {
		n := strings.TrimPrefix(k.Label, "key ")
		if k.Digest != credential.NewSecret("imported "+n).Digest() {
			t.Fatalf("%q has the digest of another key", k.Label)
		}
		labels[k.Label] = true
	}
	if len(labels) != len(keys) {
		t.Errorf("%d labels", len(labels))
	}
	if !slices.IsSortedFunc(keys, func(a, b keystore.Key) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("the ids do not ascend")
	}
	if !slices.IsSortedFunc(keys, func(a, b keystore.Key) int { return bytes.Compare(a.Digest[:], b.Digest[:]) }) {
		t.Error("the digests do not ascend")
	}
}
