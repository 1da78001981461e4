package keystore_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func TestRecordGivesLease(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	// grants are pairs of covers and seconds from now.
	grants := func(pairs ...int) (list []keystore.Grant) {
		for p := range slices.Chunk(pairs, 2) {
			list = append(list, keystore.Grant{Covers: int64(p[0]), StaleEndsAt: now.Add(time.Duration(p[1]) * time.Second)})
		}
		return list
	}
	many := func(n int) []keystore.Grant {
		var pairs []int
		for i := range n {
			pairs = append(pairs, 4+i, 10+i)
		}
		return grants(pairs...)
	}
	tests := []struct {
		name   string
		before []keystore.Grant // of a sidecar that has acknowledged revision 4
		head   int64
		poll   keystore.Poll // with a lease of 15 s and 25 s more
		lease  time.Duration // 0: refused
		want   []keystore.Grant
	}{
		{"first poll", nil, 4, keystore.Poll{Revision: 4}, 15 * time.Second, grants(4, 40)},
		{"renewal", grants(4, 30), 4, keystore.Poll{Revision: 4}, 15 * time.Second, grants(4, 40)},
		{"after an hour", grants(4, -30), 4, keystore.Poll{Revision: 4}, 15 * time.Second, grants(4, 40)},
		{"unanswered", grants(4, 30), 6, keystore.Poll{Revision: 4, Limit: 2}, 15 * time.Second, grants(4, 30, 6, 40)},
		{"unanswered again", grants(4, 30, 6, 35), 6, keystore.Poll{Revision: 4, Limit: 2}, 15 * time.Second, grants(4, 30, 6, 40)},
		{"acknowledged", grants(4, 30, 6, 35, 7, 36), 9, keystore.Poll{Revision: 6, Limit: 9}, 15 * time.Second, grants(6, 35, 7, 36, 9, 40)},
		{"all acknowledged", grants(4, 30, 6, 35, 7, 36), 7, keystore.Poll{Revision: 7}, 15 * time.Second, grants(7, 40)},
		{"all acknowledged, with a longer earlier grant", grants(4, 30, 6, 50), 9, keystore.Poll{Revision: 9}, 15 * time.Second, grants(9, 50)},
		{"delayed poll", grants(4, 30), 6, keystore.Poll{Revision: 2, Limit: 4}, 15 * time.Second, grants(4, 30, 6, 40)},
		{"clock set back", grants(4, 1000), 6, keystore.Poll{Revision: 4, Limit: 2}, 15 * time.Second, grants(4, 1000)},
		{"too many changes", grants(4, 30), 6, keystore.Poll{Revision: 4, Limit: 1}, 5 * time.Second, grants(4, 30)},
		{"too many changes, with a long grant", grants(4, 300), 6, keystore.Poll{Revision: 4, Limit: 1}, 15 * time.Second, grants(4, 300)},
		{"too many changes, some acknowledged", grants(4, 30, 5, 35), 9, keystore.Poll{Revision: 5, Limit: 3}, 10 * time.Second, grants(5, 35)},
		{"too many changes for the rest of the grant", grants(4, 25), 6, keystore.Poll{Revision: 4, Limit: 1}, 0, grants(4, 25)},
		{"too many changes for an unknown sidecar", nil, 6, keystore.Poll{Revision: 4, Limit: 1}, 0, nil},
		{"too many changes for a delayed poll", grants(4, 30), 6, keystore.Poll{Revision: 2, Limit: 3}, 5 * time.Second, grants(4, 30)},
		{"unanswered too often", many(keystore.MaxGrants), 99, keystore.Poll{Revision: 4, Limit: 99, MaxStale: -12 * time.Second}, 12 * time.Second, many(keystore.MaxGrants)},
		{"unanswered too often, with nothing left", many(keystore.MaxGrants), 99, keystore.Poll{Revision: 4, Limit: 99, MaxStale: time.Hour}, 0, many(keystore.MaxGrants)},
		{"unanswered almost too often", many(keystore.MaxGrants - 1), 99, keystore.Poll{Revision: 4, Limit: 99}, 15 * time.Second, append(many(keystore.MaxGrants-1), grants(99, 40)...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.poll.Lease, tt.poll.MaxStale = 15*time.Second, tt.poll.MaxStale+25*time.Second
			s := keystore.Sidecar{Name: "s", Revision: 4, Grants: slices.Clone(tt.before)}
			before := s
			lease, ok := s.Record(tt.poll, tt.head, now)
			if lease != tt.lease || ok != (tt.lease > 0) {
				t.Errorf("lease %v, %v; want %v", lease, ok, tt.lease)
			}
			if diff := cmp.Diff(tt.want, s.Grants); diff != "" {
				t.Errorf("grants (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, s); !ok && diff != "" {
				t.Errorf("a refused poll was recorded: %s", diff)
			}
			if ok && !s.LeaseEndsAt.Equal(now.Add(lease)) {
				t.Errorf("the lease ends at %v", s.LeaseEndsAt)
			}
		})
	}
}

// world has sidecars with their real state and the key API's records of them.
type world struct {
	now    time.Time
	head   int64
	truth  map[string]*truth
	record map[string]*keystore.Sidecar
	stated map[int64]keystore.Progress
}

// truth is a sidecar's real state, with its poll in flight.
type truth struct {
	applied  int64     // the oldest revision of its cached facts
	answers  time.Time // until when it answers from its cache
	poll     *keystore.Poll
	sent     time.Time
	lease    time.Duration // once recorded
	delayed  []keystore.Poll
	number   int64 // of the last poll
	covers   int64 // of the answer, after the log was read
	answered bool
}

const (
	worldLease = 10 * time.Second
	worldLimit = 3
)

func anyName(t *rapid.T) string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "sidecar") }

func (w *world) change(*rapid.T) { w.head++ }

func (w *world) time(t *rapid.T) {
	w.now = w.now.Add(time.Duration(rapid.IntRange(1, 9_000_000_000).Draw(t, "time")))
}

// send abandons the poll before, which may still arrive later.
func (w *world) send(t *rapid.T) {
	s := w.truth[anyName(t)]
	if s.poll != nil && s.lease == 0 {
		s.delayed = append(s.delayed, *s.poll)
	}
	s.number++
	stale := time.Duration(rapid.IntRange(0, 3).Draw(t, "stale")) * 10 * time.Second
	s.poll = &keystore.Poll{Number: s.number, Revision: s.applied, Limit: worldLimit, Lease: worldLease, MaxStale: stale}
	if !w.now.Before(s.answers) { // nothing cached answers, so it starts over
		s.poll.Revision = -1
	}
	s.sent, s.lease, s.answered = w.now, 0, false
}

func (w *world) onRecord(name string, p keystore.Poll) (time.Duration, bool) {
	known := w.record[name]
	if known == nil {
		known = &keystore.Sidecar{Name: name}
	}
	if known.CheckNumber(p) != nil || p.Revision < 0 {
		return 0, false
	}
	lease, ok := known.Record(p, w.head, w.now)
	if ok {
		known.Poll = p.Number
		w.record[name] = known
	}
	return lease, ok
}

func (w *world) arrive(t *rapid.T) {
	name := anyName(t)
	s := w.truth[name]
	if len(s.delayed) > 0 && rapid.Bool().Draw(t, "delayed") {
		w.onRecord(name, s.delayed[0])
		s.delayed = s.delayed[1:]
		return
	}
	if s.poll == nil || s.lease > 0 {
		return
	}
	lease, ok := w.onRecord(name, *s.poll)
	if s.lease = lease; !ok { // 410: everything cached is invalid
		s.applied, s.poll = w.head, nil
	}
}

// read reads the log for the answer, at any time after the poll was recorded.
func (w *world) read(t *rapid.T) {
	s := w.truth[anyName(t)]
	if s.poll != nil && s.lease > 0 && !s.answered {
		s.covers, s.answered = min(w.head, s.poll.Revision+worldLimit), true
	}
}

func (w *world) deliver(t *rapid.T) {
	s := w.truth[anyName(t)]
	if s.poll == nil || !s.answered || s.lease == 0 {
		return
	}
	s.applied = max(s.applied, s.covers)
	if end := s.sent.Add(s.lease + s.poll.MaxStale); end.After(s.answers) {
		s.answers = end
	}
	s.poll = nil
}

// check checks that the progress of each change holds for every sidecar, and never becomes later.
func (w *world) check(t *rapid.T) {
	var list []keystore.Sidecar
	for _, name := range []string{"a", "b"} {
		if s := w.record[name]; s != nil {
			list = append(list, *s)
		}
	}
	for c := int64(1); c <= w.head; c++ {
		got := keystore.ProgressOf(c, keystore.Head{Revision: w.head, Now: w.now}, list)
		for name, s := range w.truth {
			if s.applied >= c || !w.now.Before(s.answers) {
				continue
			}
			if got.Effective || got.EffectiveBy.Before(s.answers) || !slices.Contains(got.WaitingFor, name) {
				t.Fatalf("the progress of change %d is %+v; %s answers without it until %v", c, got, name, s.answers)
			}
		}
		before, ok := w.stated[c]
		if ok && (before.Effective && !got.Effective || !before.Effective && got.EffectiveBy.After(before.EffectiveBy)) {
			t.Fatalf("the progress of change %d was %+v, and then %+v", c, before, got)
		}
		w.stated[c] = got
	}
	for name, s := range w.record {
		if len(s.Grants) > keystore.MaxGrants {
			t.Fatalf("%s has %d grants", name, len(s.Grants))
		}
	}
}

// No sidecar acts without a change that is effective, whatever polls are lost, delayed or reordered.
func TestEffectiveChangesAreKnownToAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			now:    time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
			truth:  map[string]*truth{},
			record: map[string]*keystore.Sidecar{},
			stated: map[int64]keystore.Progress{},
		}
		for _, name := range []string{"a", "b"} {
			w.truth[name] = &truth{}
		}
		t.Repeat(map[string]func(*rapid.T){
			"change": w.change, "time": w.time, "send": w.send, "send again": w.send, "arrive": w.arrive, "arrive again": w.arrive,
			"read": w.read, "deliver": w.deliver, "deliver again": w.deliver, "": w.check,
		})
	})
}

// A sidecar that receives its answers has one grant.
func TestOneGrantInSteadyState(t *testing.T) {
	s := keystore.Sidecar{Name: "s"}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for head := range int64(100) {
		now = now.Add(time.Second)
		if _, ok := s.Record(keystore.Poll{Revision: head, Limit: 1, Lease: time.Minute, MaxStale: time.Hour}, head, now); !ok || len(s.Grants) != 1 {
			t.Fatal(fmt.Sprint(s.Grants, ok))
		}
	}
}

func TestCheckNumberRefuses(t *testing.T) {
	for _, tt := range []struct {
		onRecord int64
		gone     bool
		poll     keystore.Poll
		refused  bool
	}{
		{0, false, keystore.Poll{Number: 1}, false},
		{5, false, keystore.Poll{Number: 6}, false},
		{5, false, keystore.Poll{Number: 5}, true},
		{5, false, keystore.Poll{Number: 4}, true},
		{5, false, keystore.Poll{Number: 5, Leave: true}, true},
		{5, false, keystore.Poll{Number: 5, Revision: -1}, true},
		{5, true, keystore.Poll{Number: 6}, true},
		{5, true, keystore.Poll{Number: 6, Revision: -1}, true},
		{5, true, keystore.Poll{Number: 6, Leave: true}, false},
		{5, true, keystore.Poll{Number: 5, Leave: true}, true},
	} {
		s := keystore.Sidecar{Poll: tt.onRecord, Gone: tt.gone}
		var refusal *keystore.Conflict
		if err := s.CheckNumber(tt.poll); errors.As(err, &refusal) != tt.refused || (err != nil) != tt.refused {
			t.Errorf("%+v with %+v: %v", s, tt.poll, err)
		}
	}
}
