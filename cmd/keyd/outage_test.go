package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// seeded is a running keyd with an account a, which has a key.
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
	p.account("a")
	s.key, s.digest = p.mint()
	s.followHead()
	return s
}

// followHead sets epoch and head to those of the change log.
func (s *seeded) followHead() {
	_, head := s.poll(-1, "", 0)
	s.epoch, s.head = head.text("epoch"), head.revision()
}

// changes returns all requests that change something: side, method, path and body.
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
		{"owners", "POST", ownKeys, `{` + long + `}`},
		{"owners", "POST", ownKeys + "/" + s.key + "/roll", ``},
		{"owners", "DELETE", ownKeys + "/" + s.key, ``},
		{"sidecars", "POST", "/v1/changes", `{"sidecar":"other","poll":POLL,"after":0,"leave":true}`},
	}
}

func (s *seeded) send(r [4]string) (int, object) {
	switch r[0] {
	case "owners":
		return s.owners.do(r[1], r[2], r[3])
	case "sidecars":
		return s.request("sidecars", sidecarToken, r[1], r[2], strings.Replace(r[3], "POLL", fmt.Sprint(polls.Add(1)), 1))
	}
	return s.request("operators", aliceToken, r[1], r[2], r[3])
}

// rejectsChanges sends all changes concurrently. Each must be answered with 503 within the limit and change nothing. Reads must
// stay fast, if readable. Repair ends the outage.
func (s *seeded) rejectsChanges(limit time.Duration, readable bool, repair func()) {
	s.t.Helper()
	before := s.snapshot()
	began := time.Now()
	var work sync.WaitGroup
	for _, r := range s.changes() {
		work.Go(func() {
			status, v := s.send(r)
			if status != 503 || v["error"] != "SERVICE_UNAVAILABLE" || v["statusCode"] != 503.0 || !strings.Contains(fmt.Sprint(v["message"]), "store cannot answer") {
				s.t.Errorf("%v: %d %v", r, status, v)
			}
			if took := time.Since(began); took > limit {
				s.t.Errorf("%v: rejected after %s", r, took)
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
	repair()
	s.until(s.changes()[11], 200)
	if after := s.snapshot(); after != before {
		s.t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	s.until(s.changes()[1], 201)
	if status, v := s.poll(s.head, s.epoch, 0); status != 200 || len(v.list("changes")) != 1 {
		s.t.Errorf("poll: %d %v, want one change", status, v)
	}
}

// until repeats a request while the answer is 503.
func (s *seeded) until(r [4]string, want int) {
	s.t.Helper()
	eventually(s.t, "end of the outage", func() error {
		status, v := s.send(r)
		if status != want && status != 503 {
			s.t.Fatalf("%v: %d %v", r, status, v)
		}
		if status != want {
			return fmt.Errorf("%v: %d %v", r, status, v)
		}
		return nil
	})
}

// answersReads checks that reads are not delayed.
func (s *seeded) answersReads() {
	s.t.Helper()
	began := time.Now()
	if status, v := s.request("sidecars", sidecarToken, "POST", "/v1/resolve", `{"credentials":["`+s.digest+`"]}`); status != 200 {
		s.t.Errorf("resolve: %d %v", status, v)
	}
	s.snapshot()
	if status, _ := s.owners.do("GET", ownKeys, ""); status != 200 {
		s.t.Errorf("owner's list: %d", status)
	}
	if took := time.Since(began); took > 2*time.Second {
		s.t.Errorf("reads took %s", took)
	}
}

// snapshot returns all that operators see of the accounts and the account a.
func (s *seeded) snapshot() string {
	s.t.Helper()
	return fmt.Sprint(s.operator("GET", "/v1/accounts", ""), s.operator("GET", "/v1/accounts/a/keys", ""), s.operator("GET", "/v1/audit", ""))
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

// Another session holds the lock that every change needs.
func TestStuckLock(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	config, database := onDatabase(t, server)
	s := seed(t, config)
	holder := connect(t, server.URL(database))
	if _, err := holder.Exec(t.Context(), "BEGIN; SELECT FROM head FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	s.rejectsChanges(11*time.Second, true, func() {
		if _, err := holder.Exec(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
	})
}

// A server that rejects writes may be an old primary, so keyd opens no new connection to it. Reads use the existing ones.
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
	eventually(t, "read-only sessions", func() error {
		if status, v := s.send(s.changes()[11]); status != 503 {
			return fmt.Errorf("%d %v", status, v)
		}
		return nil
	})
	s.rejectsChanges(2*time.Second, false, func() { set("ALTER SYSTEM RESET default_transaction_read_only") })
}

// A pooler in transaction mode passes no notifications. The changes of other replicas are found by polling the database.
func TestReplicasWithoutNotifications(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	pooler, err := server.Pooler(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pooler.Remove() })
	config, database := onDatabase(t, server)
	second, _ := onDatabase(t, server)
	for _, file := range []string{config, second} {
		replaceIn(t, file, "\nstore: ", "\nstore: "+pooler.LoopbackURL(database)+" # ")
	}
	a, b := seed(t, config), launch(t, second)
	for range 3 {
		a.followHead()
		polled := make(chan time.Time)
		go func() {
			b.poll(a.head, a.epoch, 10*time.Second)
			polled <- time.Now()
		}()
		<-time.After(200 * time.Millisecond) // the poll is in flight
		a.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`)
		committed := time.Now()
		if late := (<-polled).Sub(committed); late > 2*time.Second {
			t.Errorf("change of the other replica after %s", late)
		}
	}
}

// If a table rejects writes, as on a full disk, at any point of a change or at the commit, nothing is changed.
func TestFullTable(t *testing.T) {
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
		rejected    [][4]string
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
		before := s.snapshot()
		for _, r := range full.rejected {
			status, v := s.send(r)
			if status != 503 || v["error"] != "SERVICE_UNAVAILABLE" || strings.Contains(fmt.Sprint(v["message"]), "canary") {
				t.Errorf("%s: %v: %d %v", full.table, r, status, v)
			}
		}
		if after := s.snapshot(); after != before {
			t.Errorf("%s: before\n%s\nafter\n%s", full.table, before, after)
		}
		exec("DROP TRIGGER full_disk ON " + full.table)
	}
	if status, v := s.send(all[1]); status != 201 {
		t.Errorf("after the outage: %d %v", status, v)
	}
	if status, v := s.poll(s.head, s.epoch, 0); status != 200 || len(v.list("changes")) != 1 {
		t.Errorf("poll: %d %v, want one change", status, v)
	}
}
