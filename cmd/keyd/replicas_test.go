package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
)

const (
	fleetLease = 3 * time.Second
	fleetSize  = 20
)

// onPostgres is a configuration of keyd over the database.
func onPostgres(t *testing.T, server *pgtest.Server, database string) string {
	t.Helper()
	config := configure(t, "store_password_file: database.password\n")
	raw, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(config)
	text := strings.NewReplacer("sqlite://"+dir+"/keys.db", server.LoopbackURL(database), "lease: 15s", "lease: "+fleetLease.String()).Replace(string(raw))
	for file, content := range map[string]string{config: text, filepath.Join(dir, "database.password"): pgtest.Password + "\n"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config
}

// replicas are several keyd over one database.
type replicas struct {
	t      *testing.T
	config string
	mu     sync.Mutex
	list   []*process
}

// at returns one of them, which may be dead or frozen.
func (r *replicas) at(i int) *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list[i]
}

// replace starts another in the place of one that has ended.
func (r *replicas) replace(i int) {
	p := launch(r.t, r.config)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list[i] = p
}

// follower is as little of a sidecar as its promise rests on: it may act on what it knows
// until its lease is over.
type follower struct {
	name    string
	client  *http.Client
	epoch   string
	mu      sync.Mutex
	applied int64     // it knows of every change up to it
	until   time.Time // of its lease
	gone    int       // how often it was sent to another place of the log
}

type pollAnswer struct {
	Epoch    string
	Revision int64
	LeaseMS  int64                      `json:"lease_ms"`
	Changes  []struct{ Revision int64 } `json:"changes"`
}

// poll asks one replica, and takes the answer in.
func (f *follower) poll(p *process, after int64, wait time.Duration) error {
	body, err := json.Marshal(map[string]any{"sidecar": f.name, "poll": polls.Add(1), "epoch": f.epoch, "after": after, "wait_ms": wait.Milliseconds()})
	if err != nil {
		return err
	}
	r, err := http.NewRequest("POST", "http://"+p.addr["listen.sidecars"]+"/v1/changes", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+sidecarToken)
	r.Header.Set("Content-Type", "application/json")
	sent := time.Now()
	resp, err := f.client.Do(r)
	if err != nil {
		return nil // another replica is asked
	}
	defer func() { _ = resp.Body.Close() }()
	var got pollAnswer
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode >= 500 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case resp.StatusCode == http.StatusGone:
		f.epoch, f.applied, f.until = got.Epoch, got.Revision, time.Time{}
		f.gone++
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: status %d", f.name, resp.StatusCode)
	default:
		for i, c := range got.Changes {
			if c.Revision != after+int64(i)+1 {
				return fmt.Errorf("%s: change %d at place %d after %d", f.name, c.Revision, i, after)
			}
		}
		if lost := got.Revision - after - int64(len(got.Changes)); after >= 0 && lost != 0 {
			return fmt.Errorf("%s: %d changes of %d to %d are not there", f.name, lost, after, got.Revision)
		}
		f.epoch, f.applied = got.Epoch, got.Revision
		f.until = sent.Add(time.Duration(got.LeaseMS) * time.Millisecond * 98 / 100)
	}
	return nil
}

// acts tells whether it may still act on what was so before the change.
func (f *follower) acts(revision int64, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied < revision && now.Before(f.until)
}

// fleet is followers that poll whichever replica, until they are stopped.
type fleet struct {
	replicas  *replicas
	followers []*follower
	stop      atomic.Bool
	work      sync.WaitGroup
}

func (f *fleet) run(one *follower) {
	for !f.stop.Load() {
		one.mu.Lock()
		after := one.applied
		one.mu.Unlock()
		if err := one.poll(f.replicas.at(rand.IntN(3)), after, 700*time.Millisecond); err != nil {
			f.replicas.t.Error(err)
			return
		}
	}
}

// holds checks that no follower acts on what was so before the change.
func (f *fleet) holds(t *testing.T, what string, revision int64) {
	t.Helper()
	now := time.Now()
	for _, one := range f.followers {
		if one.acts(revision, now) {
			t.Errorf("%s: %s still acts without change %d", what, one.name, revision)
		}
	}
}

// change makes one by the replica, and waits until it is effective by all of these.
func (f *fleet) change(t *testing.T, through *process, others ...*process) {
	t.Helper()
	began := time.Now()
	got := through.operator("POST", "/v1/accounts/a/keys", `{"label":"x"}`)["change"].(map[string]any)
	revision := int64(got["revision"].(float64))
	for _, p := range append([]*process{through}, others...) {
		got = p.operator("GET", fmt.Sprintf("/v1/revisions/%d?wait_ms=10000", revision), "")["change"].(map[string]any)
		f.holds(t, "effective", revision)
		if got["effective"] != true {
			t.Errorf("change %d: %v", revision, got)
		}
	}
	if took := time.Since(began); took > fleetLease+2*time.Second {
		t.Errorf("change %d was effective after %s", revision, took)
	}
}

// Three keyd over one PostgreSQL, of which any is killed, frozen and restarted; twenty
// sidecars poll whichever answers.
func TestReplicas(t *testing.T) {
	server, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Remove() })
	database, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := &replicas{t: t, config: onPostgres(t, server, database)}
	for range 3 {
		r.list = append(r.list, launch(t, onPostgres(t, server, database))) // each with an owners' socket of its own
	}
	r.at(0).operator("POST", "/v1/accounts", `{"id":"a","name":"Ann"}`)
	f := &fleet{replicas: r}
	for i := range fleetSize {
		one := &follower{name: fmt.Sprint("sidecar-", i), client: &http.Client{Timeout: 1500 * time.Millisecond}}
		if err := one.poll(r.at(i%3), -1, 0); err != nil || one.epoch == "" {
			t.Fatal(err)
		}
		one.gone = 0 // of the request for the head
		f.followers = append(f.followers, one)
		f.work.Go(func() { f.run(one) })
	}
	defer func() {
		f.stop.Store(true)
		f.work.Wait()
	}()
	f.change(t, r.at(0), r.at(1), r.at(2))
	_ = r.at(0).cmd.Process.Kill()
	f.change(t, r.at(1), r.at(2))
	r.replace(0)
	f.change(t, r.at(0), r.at(1), r.at(2))
	if err := r.at(1).cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.change(t, r.at(0), r.at(2))
	}
	if err := r.at(1).cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	f.change(t, r.at(1), r.at(0), r.at(2))
	r.at(2).stop(syscall.SIGTERM)
	f.change(t, r.at(0), r.at(1))
	r.replace(2)
	f.change(t, r.at(2), r.at(1), r.at(0))
	for _, one := range f.followers {
		if one.mu.Lock(); one.gone > 0 {
			t.Errorf("%s was sent elsewhere %d times", one.name, one.gone)
		}
		one.mu.Unlock()
	}

	// A new epoch is noticed by all that run.
	if code, out, errs := run(t, "-config", r.config, "-new-epoch"); code != 0 || !strings.HasPrefix(out, "new epoch ") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	deadline := time.Now().Add(5 * time.Second)
	for _, one := range f.followers {
		for {
			one.mu.Lock()
			gone := one.gone
			one.mu.Unlock()
			if gone > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s has not heard of the new epoch", one.name)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	for i := range 3 {
		if strings.Contains(r.at(i).logged(), pgtest.Password) {
			t.Error("the log holds the database's password")
		}
	}
}
