package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata/fake use a key API that responds with files of the script.
func TestScriptsWithFake(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/fake", UpdateScripts: update, Cmds: scriptCommands,
		Setup: func(env *testscript.Env) error {
			fake := httptest.NewServer(&fakeAPI{dir: filepath.Join(env.WorkDir, "api")})
			env.Defer(fake.Close)
			if err := os.MkdirAll(filepath.Join(env.WorkDir, "api"), 0o700); err != nil {
				return err
			}
			return operator(env, fake.URL, "a-token")
		},
	})
}

// fakeAPI responds to a request with the file that is named after it: GET_accounts_acc_1 for
// GET /v1/accounts/acc_1, with the suffix =CURSOR for a later page. If there is a file with the
// suffix .N, the Nth such request gets it. The first line is the status, or "hang up". With
// "truncated" after the status, the response is shorter than its Content-Length.
// Requests are logged in requests.log: method, address, token, body.
type fakeAPI struct {
	dir   string
	mu    sync.Mutex
	count map[string]int
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log(r)
	content, err := f.find(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	first, answer, _ := strings.Cut(string(content), "\n")
	status, truncated := strings.CutSuffix(first, " truncated")
	code, err := strconv.Atoi(status)
	if err != nil || truncated {
		hijacked, buffer, _ := w.(http.Hijacker).Hijack()
		if truncated {
			_, _ = buffer.WriteString("HTTP/1.1 " + status + " OK\r\nContent-Length: 100000\r\n\r\n" + answer)
			_ = buffer.Flush()
		}
		_ = hijacked.Close()
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(answer))
}

func (f *fakeAPI) find(r *http.Request) ([]byte, error) {
	name := r.Method + strings.ReplaceAll(strings.TrimPrefix(r.URL.EscapedPath(), "/v1"), "/", "_")
	if cursor := r.URL.Query().Get("cursor"); cursor != "" {
		name += "=" + cursor
	}
	if f.count == nil {
		f.count = map[string]int{}
	}
	f.count[name]++
	content, err := os.ReadFile(filepath.Join(f.dir, fmt.Sprintf("%s.%d", name, f.count[name])))
	if err != nil {
		content, err = os.ReadFile(filepath.Join(f.dir, name))
	}
	return content, err
}

func (f *fakeAPI) log(r *http.Request) {
	whole := new(strings.Builder)
	_ = r.Write(whole)
	_, body, _ := strings.Cut(whole.String(), "\r\n\r\n")
	log, err := os.OpenFile(filepath.Join(f.dir, "requests.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer func() { _ = log.Close() }()
	_, _ = log.WriteString(r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("Authorization") + " " + body + "\n")
}
