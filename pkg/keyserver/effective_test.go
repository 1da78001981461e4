package keyserver

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// metric returns the value of a series.
func (f *fixture) metric(series string) float64 {
	f.t.Helper()
	for _, line := range f.scrape() {
		if text, ok := strings.CutPrefix(line, series+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				f.t.Fatal(err)
			}
			return value
		}
	}
	f.t.Fatalf("no series %s", series)
	return 0
}

func TestPendingChangesAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		want := func(event string, pending, behind, oldest, slowest float64) {
			t.Helper()
			if err := f.countSidecars(t.Context()); err != nil {
				t.Fatal(err)
			}
			for series, want := range map[string]float64{
				"phantom_keyd_changes_pending": pending, "phantom_keyd_slowest_sidecar_changes_behind": behind,
				"phantom_keyd_oldest_pending_change_age_seconds": oldest, "phantom_keyd_slowest_sidecar_acknowledgement_age_seconds": slowest,
			} {
				if got := f.metric(series); got < want || got > want+2 && want > 0 || got != 0 && want == 0 {
					t.Errorf("%s: %s is %v, want %v", event, series, got, want)
				}
			}
		}
		want("without a sidecar", 0, 0, 0, 0)
		f.startSidecar("s", "")
		<-time.After(3 * time.Second)
		want("a sidecar that is up to date", 0, 0, 0, 3)
		for range 3 {
			f.key("a", "")
			<-time.After(time.Second)
		}
		want("three changes", 3, 3, 3, 6)
		<-time.After(2 * time.Second)
		want("2 seconds later", 3, 3, 5, 8)
		<-time.After(time.Hour)
		want("after the lease and its stale time", 0, 0, 0, 0)
	})
}

// countingStore counts the reads of a change's progress. Changes after the revision wait for a sidecar.
type countingStore struct {
	keystore.Store
	effective int64
	reads     int
}

func (s *countingStore) Progress(_ context.Context, revision int64) (keystore.Head, keystore.Progress, error) {
	s.reads++
	p := keystore.Progress{}
	if revision > s.effective {
		p.Waiting = 1
	}
	return keystore.Head{}, p, nil
}

func TestEffectiveUpToNeedsFewReads(t *testing.T) {
	for _, tt := range []struct{ head, effective int64 }{{0, 0}, {1, 0}, {1, 1}, {1000, 1000}, {1000, 0}, {1000, 1}, {1000, 999}, {1000, 500}, {1 << 40, 12345}} {
		store := &countingStore{effective: tt.effective}
		s := &Server{store: store}
		got, err := s.effectiveUpTo(t.Context(), keystore.Head{Revision: tt.head})
		if err != nil || got != tt.effective {
			t.Errorf("%+v: %d, %v", tt, got, err)
		}
		if tt.head == tt.effective && store.reads > 1 || store.reads > 42 {
			t.Errorf("%+v: %d reads", tt, store.reads)
		}
	}
}

func TestPendingIsBounded(t *testing.T) {
	p, began := &pending{}, time.Now()
	head := keystore.Head{Epoch: "e"}
	for i := range 2 * maxMarks {
		head.Revision = int64(i + 1)
		p.note(head, began.Add(time.Duration(i)*time.Second))
	}
	if len(p.marks) != maxMarks {
		t.Errorf("%d marks", len(p.marks))
	}
	if got := p.settle(head, 10); !got.Equal(began.Add(10 * time.Second)) {
		t.Errorf("the 11th change was seen at %v", got)
	}
	if got := p.settle(head, head.Revision-1); got.IsZero() || got.After(began.Add(maxMarks*time.Second)) {
		t.Errorf("the newest change was seen at %v: its age must not be too small", got)
	}
	head.Epoch = "other"
	p.note(head, began)
	if got := p.start(head); got != 0 {
		t.Errorf("another log starts at %d", got)
	}
}
