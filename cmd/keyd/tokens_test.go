package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// listAccounts lists the accounts with a token, and returns the status and Retry-After.
func (p *process) listAccounts(token string) (status int, retryAfter string) {
	p.t.Helper()
	status, header, _ := p.exchange("operators", token, http.MethodGet, "/v1/accounts", "")
	return status, header.Get("Retry-After")
}

// Wrong tokens are rate limited. A valid token from the same address is always accepted.
func TestGuessedTokens(t *testing.T) {
	p := launch(t, configure(t, ""))
	limited := 0
	for i := range 200 {
		switch status, retry := p.listAccounts("canary-wrong-token"); {
		case status == 429 && retry == "1":
			limited++
		case status != 401 || limited > 0 && i < 60:
			t.Fatalf("guess %d: %d, retry after %q", i, status, retry)
		}
		if i%10 == 0 {
			if status, _ := p.listAccounts(aliceToken); status != 200 {
				t.Fatalf("valid token after %d guesses: %d", i, status)
			}
		}
	}
	if limited < 100 {
		t.Errorf("%d of 200 guesses were limited", limited)
	}
}

// A changed token file is used without a restart or a signal. Without the file the token is rejected.
func TestTokenRotation(t *testing.T) {
	t.Parallel()
	config := configure(t, "")
	p := launch(t, config)
	file := filepath.Join(filepath.Dir(config), "alice.token")
	const second = "canary-alice-second"
	until := func(token string, want int) {
		t.Helper()
		eventually(t, token, func() error {
			if status, _ := p.listAccounts(token); status != want {
				return fmt.Errorf("%d, want %d", status, want)
			}
			return nil
		})
	}
	until(aliceToken, 200)
	write(t, file+".next", second+"\n")
	if err := os.Rename(file+".next", file); err != nil {
		t.Fatal(err)
	}
	until(second, 200)
	until(aliceToken, 401)
	write(t, file, aliceToken+"\n") // in place
	until(aliceToken, 200)
	until(second, 401)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	until(aliceToken, 401)
	write(t, file, "\ufeff"+second+"\r\n")
	until(second, 200)
}
