package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// seeded is a running keyd with an account a that has a key.
type seeded struct {
	*process
	owners owners
	key    string // its id
	digest string
	epoch  string
	head   int64
}

func seed(t *testing.T, config string) *seeded {
	t.Helper()
	p := launch(t, config)
	s := &seeded{process: p, owners: ownersOf(p, config)}
	p.operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	minted := p.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`)
	s.key = minted["key"].(map[string]any)["id"].(string)
	s.digest = credential.NewSecret(minted["plaintext"].(string)).Digest().Hex()
	s.note()
	return s
}

// note remembers where the log ends.
func (s *seeded) note() {
	_, head := s.poll(-1, "", 0)
	s.epoch, s.head = head["epoch"].(string), int64(head["revision"].(float64))
}

// changes are all that changes something, by side, method, path and body.
func (s *seeded) changes() [][4]string {
	const long = `"label":"` + "012345678901234567890123456789012345678901234567890123456789" + `"`
	return [][4]string{
		{"operators", "POST", "/v1/accounts", `{"name":"x"}`},
		{"operators", "POST", "/v1/accounts/a/keys", `{` + long + `}`},
		{"operators", "POST", "/v1/accounts/a/keys/import", `{` + long + `,"sha256":"` + strings.Repeat("1", 64) + `"}`},
		{"operators", "POST", "/v1/accounts/a/sessions", ``},
		{"operators", "PUT", "/v1/keys/" + s.key + "/scopes/chat:companion", ``},
		{"operators", "POST", "/v1/keys/" + s.key + "/roll", `{"grace_seconds":60}`},
		{"operators", "POST", "/v1/keys/" + s.key + "/revoke", ``},
		{"operators", "POST", "/v1/accounts/a/terminate", ``},
		{"owners", "POST", own, `{` + long + `}`},
		{"owners", "POST", own + "/" + s.key + "/roll", ``},
		{"owners", "DELETE", own + "/" + s.key, ``},
		{"sidecars", "POST", "/v1/changes", `{"sidecar":"other","poll":POLL,"after":0,"leave":true}`},
	}
}

func (s *seeded) send(r [4]string) (int, map[string]any) {
	switch r[0] {
	case "owners":
		return s.owners.do(r[1], r[2], r[3])
	case "sidecars":
		return s.ask("sidecars", sidecarToken, r[1], r[2], strings.Replace(r[3], "POLL", fmt.Sprint(polls.Add(1)), 1))
	}
	return s.ask("operators", aliceToken, r[1], r[2], r[3])
}

// refusesChanges sends all changes at once, and checks that each is told within the limit that the
// store cannot answer, that nothing that only reads is held up, and that nothing was done once the
// trouble is over.
func (s *seeded) refusesChanges(limit time.Duration, readable bool, mend func()) {
	s.t.Helper()
	before := s.truthOfA()
	began := time.Now()
	var work sync.WaitGroup
	for _, r := range s.changes() {
		work.Go(func() {
			status, v := s.send(r)
			if status != 503 || v["error"] != "SERVICE_UNAVAILABLE" || v["statusCode"] != 503.0 || !strings.Contains(fmt.Sprint(v["message"]), "store cannot answer") {
				s.t.Errorf("%v: %d %v", r, status, v)
			}
			if took := time.Since(began); took > limit {
				s.t.Errorf("%v: refused after %s", r, took)
			}
		})
	}
	if readable {
		s.answersReads()
	}
	work.Wait()
	if readable {
		s.answersReads()
	}
	mend()
	s.until(s.changes()[11], 200)
	if after := s.truthOfA(); after != before {
		s.t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	s.until(s.changes()[1], 201)
	if status, v := s.poll(s.head, s.epoch, 0); status != 200 || len(v["changes"].([]any)) != 1 {
		s.t.Errorf("a follower missed or was told too much: %d %v", status, v)
	}
}

// until sends a request again for as long as the store cannot answer.
func (s *seeded) until(r [4]string, want int) {
	s.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; <-time.After(20 * time.Millisecond) {
		status, v := s.send(r)
		if status == want {
			return
		}
		if status != 503 || time.Now().After(deadline) {
			s.t.Fatalf("after the trouble: %v: %d %v", r, status, v)
		}
	}
}

// answersReads checks that nothing that only reads is held up.
func (s *seeded) answersReads() {
	s.t.Helper()
	began := time.Now()
	if status, v := s.ask("sidecars", sidecarToken, "POST", "/v1/resolve", `{"credentials":["`+s.digest+`"]}`); status != 200 {
		s.t.Errorf("resolve: %d %v", status, v)
	}
	_ = s.truthOfA()
	if status, _ := s.owners.do("GET", own, ""); status != 200 {
		s.t.Errorf("the owner's list: %d", status)
	}
	if took := time.Since(began); took > 2*time.Second {
		s.t.Errorf("reading took %s", took)
	}
}

func (s *seeded) truthOfA() string {
	s.t.Helper()
	return fmt.Sprint(s.operator("GET", "/v1/accounts", ""), s.operator("GET", "/v1/accounts/a/keys", ""), s.operator("GET", "/v1/audit", ""))
}

// onDatabase is a configuration over a new database of the server, and the database's name.
func onDatabase(t *testing.T, server *pgtest.Server) (config, database string) {
	t.Helper()
	database, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return onPostgres(t, server, database), database
}

func sharedServer(t *testing.T) *pgtest.Server {
	t.Helper()
	server, err := databases()
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// Somebody holds the lock that every change needs, and does not let go.
func TestStuckLock(t *testing.T) {
	t.Parallel() // it waits most of its time
	server := sharedServer(t)
	config, database := onDatabase(t, server)
	s := seed(t, config)
	holder := connect(t, server.URL(database))
	if _, err := holder.Exec(t.Context(), "BEGIN; SELECT FROM head FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	s.refusesChanges(11*time.Second, true, func() {
		if _, err := holder.Exec(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
	})
}

// The server takes no writes for a time. It may be an old primary that was cut off, so no new
// connection is made to it, and what only reads goes on over those that there are.
func TestReadOnlyServer(t *testing.T) {
	server := sharedServer(t)
	config, _ := onDatabase(t, server)
	s := seed(t, config)
	c := connect(t, server.URL("postgres"))
	set := func(statement string) {
		t.Helper()
		for _, q := range []string{"SET default_transaction_read_only = off", statement, "SELECT pg_reload_conf()"} {
			if _, err := c.Exec(context.WithoutCancel(t.Context()), q); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("ALTER SYSTEM SET default_transaction_read_only = on")
	defer set("ALTER SYSTEM RESET default_transaction_read_only")
	for deadline := time.Now().Add(5 * time.Second); ; { // until the sessions have heard of it
		if status, _ := s.send(s.changes()[11]); status == 503 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server still takes writes")
		}
	}
	s.refusesChanges(2*time.Second, false, func() { set("ALTER SYSTEM RESET default_transaction_read_only") })
}

// Notifications do not come through a pooler that gives each transaction another session:
// then another replica's change is seen when the server looks.
func TestReplicasWithoutNotifications(t *testing.T) {
	t.Parallel() // it waits most of its time
	server := sharedServer(t)
	pooler, err := server.Pooler(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pooler.Remove() })
	config, database := onDatabase(t, server)
	direct := server.LoopbackURL(database)
	replaceIn(t, config, direct, pooler.LoopbackURL(database))
	a := seed(t, config)
	second, _ := onDatabase(t, server)
	raw, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.ReplaceAll(raw, []byte(filepath.Dir(config)), []byte(filepath.Dir(second)))
	if err := os.WriteFile(second, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	b := launch(t, second)
	for range 3 {
		a.note()
		polled := make(chan time.Time)
		go func() {
			b.poll(a.head, a.epoch, 10*time.Second)
			polled <- time.Now()
		}()
		<-time.After(200 * time.Millisecond) // the poll is under way
		a.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`)
		committed := time.Now()
		if late := (<-polled).Sub(committed); late > 2*time.Second {
			t.Errorf("another replica's change was seen after %s", late)
		}
	}
}

// A table that takes nothing more, as on a full disk, wherever in a change it comes, and at the
// commit: nothing of the change is done.
func TestTableThatIsFull(t *testing.T) {
	server := sharedServer(t)
	config, database := onDatabase(t, server)
	s := seed(t, config)
	c := connect(t, server.URL(database))
	exec := func(q string) {
		t.Helper()
		if _, err := c.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN RAISE 'could not extend file "base/canary"' USING ERRCODE = 'disk_full'; END$$`)
	all := s.changes()
	keys := [][4]string{all[1], all[2], all[4], all[5], all[6], all[8], all[9], all[10]}
	logged := append([][4]string{all[0], all[7]}, keys...)
	report := fmt.Sprintf(`{"sidecar":"s","used":[{"sha256":%q,"last_used_at":%q,"allowed":1}]}`, s.digest, time.Now().UTC().Format(time.RFC3339))
	usage := [4]string{"sidecars", "POST", "/v1/usage", report}
	for _, full := range []struct {
		table, when string
		refused     [][4]string
	}{
		{"accounts", "BEFORE INSERT OR UPDATE", [][4]string{all[0], all[7]}},
		{"keys", "BEFORE INSERT OR UPDATE", append(keys, usage)},
		{"sessions", "BEFORE INSERT", [][4]string{all[3]}},
		{"sidecars", "BEFORE INSERT", [][4]string{all[11]}},
		{"usage", "AFTER INSERT", [][4]string{usage}},
		{"head", "AFTER UPDATE", logged},
		{"log", "AFTER INSERT", logged},
		{"events", "BEFORE INSERT", append(logged, all[3])},
		{"events", "DEFERRED", append(logged, all[3])},
	} {
		if full.when == "DEFERRED" {
			exec("CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON " + full.table + " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION full_disk()")
		} else {
			exec("CREATE TRIGGER full_disk " + full.when + " ON " + full.table + " FOR EACH ROW EXECUTE FUNCTION full_disk()")
		}
		before := s.truthOfA()
		for _, r := range full.refused {
			status, v := s.send(r)
			if status != 503 || v["error"] != "SERVICE_UNAVAILABLE" || strings.Contains(fmt.Sprint(v["message"]), "canary") {
				t.Errorf("%s: %v: %d %v", full.table, r, status, v)
			}
		}
		if after := s.truthOfA(); after != before {
			t.Errorf("%s: before\n%s\nafter\n%s", full.table, before, after)
		}
		exec("DROP TRIGGER full_disk ON " + full.table)
	}
	if status, v := s.send(all[1]); status != 201 {
		t.Errorf("with room again: %d %v", status, v)
	}
	if status, v := s.poll(s.head, s.epoch, 0); status != 200 || len(v["changes"].([]any)) != 1 {
		t.Errorf("a follower missed or was told too much: %d %v", status, v)
	}
}
