package keyserver

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The answer to a change follows the last acknowledgement without a pause, however many sidecars there are.
func TestAnswerFollowsLastAcknowledgement(t *testing.T) {
	for _, sidecars := range []int{1, 3, 40} {
		t.Run(fmt.Sprint(sidecars), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				key, _ := f.key("a", "")
				var epoch string
				var head int64
				for i := range sidecars {
					epoch, head = f.startSidecar(fmt.Sprint("s", i), "")
				}
				answered := make(chan reply, 1)
				go func() { answered <- f.operator("POST", "/v1/keys/"+key+"/revoke?wait_ms=30000", "") }()
				synctest.Wait() // it has read the progress, and pauses
				for i := range sidecars {
					if len(answered) > 0 {
						t.Fatalf("answered after %d of %d: %s", i, sidecars, (<-answered).raw)
					}
					f.poll(fmt.Sprint("s", i), head+1, epoch, "").want(200)
				}
				acknowledged := time.Now()
				r := <-answered
				if late := time.Since(acknowledged); late != 0 || r.at("change", "effective") != true {
					t.Errorf("answered after %s: %s", late, r.raw)
				}
			})
		})
	}
}

// Sidecars that have acknowledged the same revision share a response, and others do not get it.
func TestSharedResponse(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		epoch, head := f.startSidecar("s", "")
		var changes []string
		for i := range 2 {
			_, plaintext := f.key("a", "")
			changes = append(changes, fmt.Sprintf(`{"revision":%d,"credential":%q}`, head+1+int64(i), digestOf(plaintext)))
		}
		want := func(name string, after int64, lease int, from int) {
			t.Helper()
			r := f.poll(name, after, epoch, "").want(200)
			want := fmt.Sprintf(`{"epoch":%q,"revision":%d,"changes":[%s],"lease_ms":%d}`, epoch, head+2, strings.Join(changes[from:], ","), lease)
			if r.raw != want {
				t.Errorf("%s after %d: got %s, want %s", name, after, r.raw, want)
			}
		}
		for range 2 {
			want("a", head, 15000, 0)
			want("b", head, 15000, 0)
			want("c", head+1, 15000, 1)
			want("d", head+2, 15000, 2)
		}
		settings := testSettings()
		settings.Lease = 20 * time.Second
		f.Apply(settings)
		want("e", head, 20000, 0)
	})
}
