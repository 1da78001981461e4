package operatorapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func TestImportKeys(t *testing.T) {
	var sent, about string
	c := api(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		first := make([]byte, 4)
		_, _ = io.ReadFull(r.Body, first)
		_, _ = io.WriteString(w, `{"lines":1,"imported":1,"existing":0}`+"\n") // before the rest has arrived
		_ = http.NewResponseController(w).Flush()
		rest, _ := io.ReadAll(r.Body)
		sent, about = string(first)+string(rest), r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Content-Type")+" "+r.Header.Get("Authorization")
		_, _ = io.WriteString(w, `{"lines":3,"imported":2,"existing":1}`+"\n"+
			`{"lines":3,"imported":2,"existing":1,"change":{"revision":7,"effective":true,"effective_by":null,"waiting_for":[]}}`+"\n")
	})
	in, out := io.Pipe()
	var reported []ImportProgress
	go func() { _, _ = io.WriteString(out, "one\n") }()
	answer, sum, err := c.ImportKeys(t.Context(), in, 1500*time.Millisecond, func(p ImportProgress) {
		if reported = append(reported, p); len(reported) == 1 {
			go func() { _, _ = io.WriteString(out, "two\nthree\n"); _ = out.Close() }()
		}
	})
	if err != nil || sum != (ImportProgress{3, 2, 1}) || answer.Change.Revision != 7 || len(reported) != 2 || reported[0].Lines != 1 {
		t.Errorf("%+v, %+v, reported %+v, %v", answer, sum, reported, err)
	}
	if !strings.Contains(answer.JSON.Reveal(), `"existing":1,"change"`) {
		t.Error(answer.JSON.Reveal())
	}
	if sent != "one\ntwo\nthree\n" || about != "POST /v1/keys/import?wait_ms=1500 application/x-ndjson Bearer t" {
		t.Errorf("%q, %s", sent, about)
	}
}

func TestImportKeysErrors(t *testing.T) {
	const first = `{"lines":1,"imported":1,"existing":0}` + "\n"
	done := func(w http.ResponseWriter, text string) { _, _ = io.WriteString(w, text) }
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    Error
		lines   int
	}{
		"rejected": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			done(w, `{"error":"BAD_REQUEST","message":"line 1: no","statusCode":400}`)
		}, Error{Status: 400, Code: "BAD_REQUEST", Message: "line 1: no"}, 0},
		"rejected in the middle": {func(w http.ResponseWriter, _ *http.Request) {
			done(w, first+`{"error":"CONFLICT","message":"line 2: no","statusCode":409}`)
		}, Error{Status: 409, Code: "CONFLICT", Message: "line 2: no"}, 1},
		"failed in the middle": {func(w http.ResponseWriter, _ *http.Request) {
			done(w, first+`{"error":"SERVICE_UNAVAILABLE","message":"no","statusCode":503}`)
		}, Error{Status: 503, Code: "SERVICE_UNAVAILABLE", Message: "no", OutcomeUnknown: true}, 1},
		"no last line": {
			func(w http.ResponseWriter, _ *http.Request) { done(w, first) },
			Error{Message: "lost the connection to the key API before the last response", OutcomeUnknown: true},
			1,
		},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			done(w, first)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, Error{Message: "lost the connection to the key API before the last response", OutcomeUnknown: true}, 1},
		"not JSON": {
			func(w http.ResponseWriter, _ *http.Request) { done(w, "<html>") },
			Error{Status: 200, Message: "invalid response", OutcomeUnknown: true},
			0,
		},
	} {
		_, sum, err := api(t, c.handler).ImportKeys(t.Context(), strings.NewReader("x\n"), 0, func(ImportProgress) {})
		got, ok := errors.AsType[*Error](err)
		if !ok {
			t.Fatalf("%s: %v", name, err)
		}
		cause := got.Cause
		got.Cause = nil
		if *got != c.want || sum.Lines != c.lines {
			t.Errorf("%s: got %+v (%v) after %d lines", name, got, cause, sum.Lines)
		}
	}
}

// The error of the lines takes precedence over that of the connection.
func TestImportKeysReturnsErrorOfLines(t *testing.T) {
	broken := errors.New("broken disk")
	for range 20 {
		c := api(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
		_, _, err := c.ImportKeys(t.Context(), io.MultiReader(strings.NewReader("x\n"), iotest.ErrReader(broken)), 0, func(ImportProgress) {})
		if !errors.Is(err, broken) {
			t.Fatal(err)
		}
	}
}

// The lines may take any time to read, the API may not.
func TestImportTimeoutExcludesReadingLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		in, out := io.Pipe()
		body := newImportBody(in, time.Minute, func() { cancel(errNoProgress) })
		defer body.timer.Stop()
		go func() {
			<-time.After(time.Hour)
			_, _ = io.WriteString(out, "x\n")
		}()
		began := time.Now()
		go func() {
			<-time.After(time.Minute / 2)
			body.markProgress() // has no effect during the Read of lines
		}()
		if _, err := body.Read(make([]byte, 10)); err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		<-time.After(time.Minute - 1)
		body.markProgress()
		<-ctx.Done()
		if took := time.Since(began); took != time.Hour+2*time.Minute-1 {
			t.Errorf("after %v", took)
		}
		if err, ok := errors.AsType[*Error](body.explain(ctx, io.EOF)); !ok || !err.OutcomeUnknown || !errors.Is(err, errNoProgress) {
			t.Error(err)
		}
	})
}
