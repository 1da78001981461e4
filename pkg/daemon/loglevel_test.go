package daemon

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/zap"
)

func TestLogLevelOfARunningProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &reader{}
		rt := newRuntime("thing", "info", log)
		h := rt.adminHandler()
		put := func(peer, body string) int {
			w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPut, "/debug/log-level", strings.NewReader(body))
			r.RemoteAddr = peer
			h.ServeHTTP(w, r)
			return w.Code
		}
		const here = "127.0.0.1:1"
		for _, step := range []struct {
			peer, body string
			code       int
			level      string // afterwards
		}{
			{"192.0.2.1:1", `{"level":"debug"}`, 403, "info"},
			{here, `{"level":"loud"}`, 400, "info"},
			{here, `{"level":"debug"}`, 200, "debug"},
			{here, `{"level":"` + strings.Repeat("x", 2<<10) + `"}`, 400, "debug"},
			{here, `{"level":"fatal"}`, 200, "error"}, // errors are always logged
			{here, `{"level":"debug"}`, 200, "debug"},
		} {
			if code := put(step.peer, step.body); code != step.code {
				t.Errorf("%+v: status %d", step, code)
			}
			if _, got := request(h, http.MethodGet, "/debug/log-level"); got != `{"level":"`+step.level+"\"}\n" {
				t.Errorf("%+v: level %s", step, got)
			}
		}
		rt.Log.Debug("a detail", zap.Int("n", 1))
		synctest.Wait()
		if text := log.text(); !strings.Contains(text, "a detail") || !strings.Contains(text, `"msg":"log level changed until the next reload","before":"info","after":"debug"`) {
			t.Errorf("logged: %s", text)
		}
		if code, _ := requestFrom("192.0.2.1:1", h, http.MethodGet, "/debug/log-level"); code != http.StatusForbidden {
			t.Errorf("status %d for another machine", code)
		}
	})
}
