package faults_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

func TestCanariesAreFound(t *testing.T) {
	const secret = "phk_0123456789abcdefghijklmnopqrstuv00AbCd"
	digest := sha256.Sum256([]byte(secret))
	c := testbed.NewCanaries()
	c.Add("phk_another")
	c.Add(secret)
	for name, text := range map[string]string{
		"plaintext":        secret,
		"in base64":        base64.StdEncoding.EncodeToString([]byte(secret)),
		"hex":              hex.EncodeToString(digest[:]),
		"upper hex":        strings.ToUpper(hex.EncodeToString(digest[:])),
		"digest in base64": base64.StdEncoding.EncodeToString(digest[:]),
		"digest in URL":    base64.URLEncoding.EncodeToString(digest[:]),
		"raw":              string(digest[:]),
	} {
		for _, around := range []string{text, `{"key":"` + text + `"}`, "x" + text + "y"} {
			if c.Search("log", []byte(around), false) == nil {
				t.Errorf("%s is not found", name)
			}
			if found := c.Search("database", []byte(around), true) != nil; found != (name != "raw") {
				t.Errorf("%s in a database: found %t", name, found)
			}
		}
	}
	for _, harmless := range []string{"", secret[:8], hex.EncodeToString(digest[:4]) + "…", hex.EncodeToString(make([]byte, 32))} {
		if err := c.Search("log", []byte(harmless), false); err != nil {
			t.Errorf("%q: %v", harmless, err)
		}
	}
}
