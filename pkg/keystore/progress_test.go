package keystore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func TestProgressOf(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	sidecar := func(name string, revision int64, stale time.Duration) keystore.Sidecar {
		return keystore.Sidecar{
			Name: name, Revision: revision, LeaseEndsAt: now, StaleEndsAt: in(stale),
			Grants: []keystore.Grant{{Covers: revision, StaleEndsAt: in(stale)}},
		}
	}
	polling := func(grants ...keystore.Grant) []keystore.Sidecar {
		last := grants[len(grants)-1]
		return []keystore.Sidecar{{Name: "a", Revision: 3, StaleEndsAt: last.StaleEndsAt, Grants: grants}}
	}
	tests := []struct {
		name      string
		notBefore time.Time
		sidecars  []keystore.Sidecar
		want      keystore.Progress
	}{
		{name: "no sidecar", want: keystore.Progress{Effective: true}},
		{
			name:     "acknowledged by all",
			sidecars: []keystore.Sidecar{sidecar("a", 7, time.Minute), sidecar("b", 8, time.Hour)},
			want:     keystore.Progress{Effective: true},
		},
		{
			name:     "one behind",
			sidecars: []keystore.Sidecar{sidecar("a", 7, time.Hour), sidecar("b", 6, time.Minute)},
			want:     keystore.Progress{EffectiveBy: in(time.Minute), WaitingFor: []string{"b"}},
		},
		{
			name:     "latest end of several behind",
			sidecars: []keystore.Sidecar{sidecar("a", 0, time.Minute), sidecar("b", 6, time.Hour), sidecar("c", 1, time.Second)},
			want:     keystore.Progress{EffectiveBy: in(time.Hour), WaitingFor: []string{"a", "b", "c"}},
		},
		{
			name:     "end of the last lease without the change",
			sidecars: polling(keystore.Grant{Covers: 3, StaleEndsAt: in(1)}, keystore.Grant{Covers: 6, StaleEndsAt: in(2)}, keystore.Grant{Covers: 7, StaleEndsAt: in(3)}, keystore.Grant{Covers: 9, StaleEndsAt: in(4)}),
			want:     keystore.Progress{EffectiveBy: in(2), WaitingFor: []string{"a"}},
		},
		{
			name:     "all answers had the change",
			sidecars: polling(keystore.Grant{Covers: 7, StaleEndsAt: in(3)}, keystore.Grant{Covers: 9, StaleEndsAt: in(4)}),
			want:     keystore.Progress{Effective: true},
		},
		{
			name:     "leases without the change over",
			sidecars: polling(keystore.Grant{Covers: 3, StaleEndsAt: in(-1)}, keystore.Grant{Covers: 6, StaleEndsAt: in(0)}, keystore.Grant{Covers: 7, StaleEndsAt: in(3)}),
			want:     keystore.Progress{Effective: true},
		},
		{
			name:     "time ends now",
			sidecars: []keystore.Sidecar{sidecar("a", 6, 0)},
			want:     keystore.Progress{Effective: true},
		},
		{
			name:     "time ends a moment later",
			sidecars: []keystore.Sidecar{sidecar("a", 6, 1)},
			want:     keystore.Progress{EffectiveBy: in(1), WaitingFor: []string{"a"}},
		},
		{
			name:      "restored, none behind",
			notBefore: in(time.Minute),
			sidecars:  []keystore.Sidecar{sidecar("a", 7, time.Hour)},
			want:      keystore.Progress{EffectiveBy: in(time.Minute)},
		},
		{
			name:      "restored, wait ends after the time",
			notBefore: in(time.Hour),
			sidecars:  []keystore.Sidecar{sidecar("a", 6, time.Minute)},
			want:      keystore.Progress{EffectiveBy: in(time.Hour), WaitingFor: []string{"a"}},
		},
		{
			name:      "restored, time ends after the wait",
			notBefore: in(time.Minute),
			sidecars:  []keystore.Sidecar{sidecar("a", 6, time.Hour)},
			want:      keystore.Progress{EffectiveBy: in(time.Hour), WaitingFor: []string{"a"}},
		},
		{name: "wait ends now", notBefore: now, want: keystore.Progress{Effective: true}},
		{name: "wait ends a moment later", notBefore: in(1), want: keystore.Progress{EffectiveBy: in(1)}},
		{
			name:      "wait over long ago",
			notBefore: in(-time.Hour),
			sidecars:  []keystore.Sidecar{sidecar("a", 6, time.Minute)},
			want:      keystore.Progress{EffectiveBy: in(time.Minute), WaitingFor: []string{"a"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want.WaitingFor == nil {
				tt.want.WaitingFor = []string{}
			}
			tt.want.Waiting = len(tt.want.WaitingFor)
			head := keystore.Head{Revision: 9, NotBefore: tt.notBefore, Now: now}
			if diff := cmp.Diff(tt.want, keystore.ProgressOf(7, head, tt.sidecars)); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Of many sidecars the first are named, and all are counted.
func TestProgressOfManySidecars(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var list []keystore.Sidecar
	for i := range 250 {
		end := now.Add(time.Duration(i) * time.Second)
		list = append(list, keystore.Sidecar{Name: fmt.Sprintf("%03d", i), Grants: []keystore.Grant{{StaleEndsAt: end}}})
	}
	p := keystore.ProgressOf(7, keystore.Head{Revision: 9, Now: now}, list)
	if p.Waiting != 249 || len(p.WaitingFor) != keystore.MaxWaitingFor || p.WaitingFor[0] != "001" || p.WaitingFor[99] != "100" || !p.EffectiveBy.Equal(now.Add(249*time.Second)) {
		t.Errorf("got %+v", p)
	}
}
