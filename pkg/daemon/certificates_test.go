package daemon

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestCertificatesOfFields(t *testing.T) {
	rt := newRuntime("thing", "info", io.Discard)
	const ends = "thing_certificate_expiry_timestamp_seconds{"
	at := func(unix int64) func() map[string]time.Time {
		return func() map[string]time.Time { return map[string]time.Time{"cert_file": time.Unix(unix, 0)} }
	}
	rt.WatchCertificates("a", at(100))
	rt.WatchCertificates("b", at(100))
	rt.WatchCertificates("a", at(200))
	rt.WatchCertificates("b", nil)
	expectMetric(t, rt, ends+`field="a.cert_file"} 200`)
	if _, text := request(rt.adminHandler(), http.MethodGet, "/metrics"); strings.Count(text, ends) != 1 {
		t.Errorf("other fields have certificates:\n%s", text)
	}
}
