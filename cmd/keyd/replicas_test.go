package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
)

// sidecars is the number of simulated sidecars.
const sidecars = 20

// replicas are several keyd with one database.
type replicas struct {
	t      *testing.T
	config string
	mu     sync.Mutex
	list   []*process
}

// at returns one of them, which may be killed or stopped.
func (r *replicas) at(i int) *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list[i]
}

// replace starts a new keyd in the place of an exited one.
func (r *replicas) replace(i int) {
	p := launch(r.t, r.config)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list[i] = p
}

// follower is a simulated sidecar, which may use its facts until its lease expires.
type follower struct {
	name    string
	client  *http.Client
	epoch   string
	mu      sync.Mutex
	applied int64     // the last change that it has received
	until   time.Time // end of its lease
	gone    int       // number of answers with 410
}

type pollAnswer struct {
	Epoch    string
	Revision int64
	LeaseMS  int64                      `json:"lease_ms"`
	Changes  []struct{ Revision int64 } `json:"changes"`
}

// poll sends a poll to one replica, and applies the answer.
func (f *follower) poll(p *process, after int64, wait time.Duration) error {
	body, err := json.Marshal(map[string]any{"sidecar": f.name, "poll": polls.Add(1), "epoch": f.epoch, "after": after, "wait_ms": wait.Milliseconds()})
	if err != nil {
		return err
	}
	r, err := http.NewRequest("POST", "http://"+p.Addresses["listen.sidecars"]+"/v1/changes", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+sidecarToken)
	r.Header.Set("Content-Type", "application/json")
	sent := time.Now()
	resp, err := f.client.Do(r)
	if err != nil {
		return nil // the next poll goes to another replica
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
				return fmt.Errorf("%s: change %d at index %d after %d", f.name, c.Revision, i, after)
			}
		}
		if lost := got.Revision - after - int64(len(got.Changes)); after >= 0 && lost != 0 {
			return fmt.Errorf("%s: %d changes of %d to %d are missing", f.name, lost, after, got.Revision)
		}
		f.epoch, f.applied = got.Epoch, got.Revision
		f.until = sent.Add(time.Duration(got.LeaseMS) * time.Millisecond * 98 / 100)
	}
	return nil
}

// mayUseOld reports whether it may still use facts from before the change.
func (f *follower) mayUseOld(revision int64, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied < revision && now.Before(f.until)
}

// followers poll random replicas until they are stopped.
type followers struct {
	replicas *replicas
	list     []*follower
	stop     atomic.Bool
	work     sync.WaitGroup
}

func (f *followers) run(one *follower) {
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

// checkChange checks that no follower may use facts from before the change.
func (f *followers) checkChange(t *testing.T, revision int64) {
	t.Helper()
	now := time.Now()
	for _, one := range f.list {
		if one.mayUseOld(revision, now) {
			t.Errorf("%s may still use facts from before change %d", one.name, revision)
		}
	}
}

// change sends a change to one replica, and waits until all of them report that it is effective.
func (f *followers) change(t *testing.T, through *process, others ...*process) {
	t.Helper()
	began := time.Now()
	revision := through.change("POST", "/v1/accounts/a/keys", `{"label":"x"}`).revision()
	for _, p := range append([]*process{through}, others...) {
		got := p.change("GET", fmt.Sprintf("/v1/revisions/%d?wait_ms=10000", revision), "")
		f.checkChange(t, revision)
		if got["effective"] != true {
			t.Errorf("change %d: %v", revision, got)
		}
	}
	if took := time.Since(began); took > postgresLease+2*time.Second {
		t.Errorf("change %d was effective after %s", revision, took)
	}
}

// Replicas are killed, stopped and restarted while sidecars poll all of them.
func TestReplicas(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	config, database := onDatabase(t, server)
	r := &replicas{t: t, config: config}
	for range 3 {
		r.list = append(r.list, launch(t, onPostgres(t, server, database))) // each with its own socket for owners
	}
	r.at(0).account("a")
	f := &followers{replicas: r}
	for i := range sidecars {
		one := &follower{name: fmt.Sprint("sidecar-", i), client: &http.Client{Timeout: 1500 * time.Millisecond}}
		if err := one.poll(r.at(i%3), -1, 0); err != nil || one.epoch == "" {
			t.Fatal(err)
		}
		one.gone = 0 // the request for the head is answered with 410
		f.list = append(f.list, one)
		f.work.Go(func() { f.run(one) })
	}
	defer func() {
		f.stop.Store(true)
		f.work.Wait()
	}()
	f.change(t, r.at(0), r.at(1), r.at(2))
	r.at(0).Kill()
	f.change(t, r.at(1), r.at(2))
	r.replace(0)
	f.change(t, r.at(0), r.at(1), r.at(2))
	if err := r.at(1).Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.change(t, r.at(0), r.at(2))
	}
	if err := r.at(1).Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	f.change(t, r.at(1), r.at(0), r.at(2))
	r.at(2).stop(syscall.SIGTERM)
	f.change(t, r.at(0), r.at(1))
	r.replace(2)
	f.change(t, r.at(2), r.at(1), r.at(0))
	for _, one := range f.list {
		if one.mu.Lock(); one.gone > 0 {
			t.Errorf("%s got %d answers with 410", one.name, one.gone)
		}
		one.mu.Unlock()
	}

	// All replicas notice a new epoch.
	if code, out, errs := run(t, "-config", r.config, "-new-epoch"); code != 0 || !strings.HasPrefix(out, "new epoch ") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	for _, one := range f.list {
		eventually(t, one.name, func() error {
			one.mu.Lock()
			defer one.mu.Unlock()
			if one.gone == 0 {
				return errors.New("no answer with 410")
			}
			return nil
		})
	}
	for i := range 3 {
		if strings.Contains(r.at(i).Output(), pgtest.Password) {
			t.Error("the log contains the password of the database")
		}
	}
}
