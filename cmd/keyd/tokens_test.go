package main

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// as asks for the accounts with a token, and returns the status and what to do next.
func (p *process) as(token string) (status int, retryAfter string) {
	p.t.Helper()
	r, err := http.NewRequest("GET", "http://"+p.addr["listen.operators"]+"/v1/accounts", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Retry-After")
}

// Who guesses tokens is limited, and whoever has a good one is let in from the same address all the
// same.
func TestGuessedTokens(t *testing.T) {
	p := launch(t, configure(t, ""))
	limited := 0
	for i := range 200 {
		switch status, retry := p.as("canary-wrong-token"); {
		case status == 429 && retry == "1":
			limited++
		case status != 401 || limited > 0 && i < 60:
			t.Fatalf("guess %d: %d, retry after %q", i, status, retry)
		}
		if i%10 == 0 {
			if status, _ := p.as(aliceToken); status != 200 {
				t.Fatalf("a good token after %d guesses: %d", i, status)
			}
		}
	}
	if limited < 100 {
		t.Errorf("%d of 200 guesses were limited", limited)
	}
}

// A token is changed by its file, without a restart or a signal, and it is rejected while there
// is no file.
func TestTokenRotation(t *testing.T) {
	t.Parallel() // it waits most of its time
	config := configure(t, "")
	p := launch(t, config)
	file := filepath.Join(filepath.Dir(config), "alice.token")
	const second = "canary-alice-second"
	until := func(token string, want int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; <-time.After(50 * time.Millisecond) {
			status, _ := p.as(token)
			if status == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%q: %d, want %d", token, status, want)
			}
		}
	}
	until(aliceToken, 200)
	next := file + ".next"
	if err := os.WriteFile(next, []byte(second+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
	until(second, 200)
	until(aliceToken, 401)
	if err := os.WriteFile(file, []byte(aliceToken+"\n"), 0o600); err != nil { // in place
		t.Fatal(err)
	}
	until(aliceToken, 200)
	until(second, 401)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	until(aliceToken, 401)
	if err := os.WriteFile(file, []byte("\ufeff"+second+"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(second, 200)
}
