package main

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// options holds the values of the flags.
type options struct {
	url, tokenFile    string
	caFile            string
	certFile, keyFile string
	output            string // "", table or json
	id, account, key  string
	name, label       string
	scopes            []string
	sha256, file      string
	expires           time.Time // zero for never
	grace, ttl, waits time.Duration
	wait              bool // -wait was given
	chain             bool
}

func (o options) newKey() operatorapi.NewKey {
	return operatorapi.NewKey{Label: o.label, Scopes: o.scopes, ExpiresAt: o.expires}
}

// globalFlags names the flags of every command. A flag with a variable is set by that environment
// variable if it is not given.
var globalFlags = []struct {
	name, variable string
	required       bool
}{
	{"url", "KEYCTL_URL", true},
	{"token-file", "KEYCTL_TOKEN_FILE", true},
	{"ca-file", "KEYCTL_CA_FILE", false},
	{"cert-file", "KEYCTL_CERT_FILE", false},
	{"key-file", "KEYCTL_KEY_FILE", false},
	{"output", "", false},
}

// newFlags defines all flags of all commands, except help and version. The text in backquotes is
// the name of the value.
func newFlags(o *options) *pflag.FlagSet {
	f := pflag.NewFlagSet("keyctl", pflag.ContinueOnError)
	text := func(to *string, name, help string) {
		f.Func(name, help, func(v string) error { *to = v; return notEmpty(v) })
	}
	text(&o.url, "url", "`URL` of the key API's listener for operators: http://HOST:PORT, https://HOST:PORT or unix:///PATH")
	text(&o.tokenFile, "token-file", "`FILE` with the operator's token")
	text(&o.caFile, "ca-file", "`FILE` with the CA certificates in PEM that verify the key API's certificate, instead of the system's")
	text(&o.certFile, "cert-file", "`FILE` with the client certificate in PEM; requires --key-file")
	text(&o.keyFile, "key-file", "`FILE` with the private key of the client certificate in PEM")
	f.FuncP("output", "o", "`FORMAT`: table (the default) or json (the API's JSON, lists with all pages)", func(v string) error {
		if o.output = v; v != "json" && v != "table" {
			return errors.New("must be table or json")
		}
		return nil
	})
	text(&o.id, "id", "`ID` of the account, key or session; for account create, the ID to give")
	text(&o.account, "account", "`ID` of the account that it belongs to")
	text(&o.key, "key", "`ID` of a key: list only its changes")
	text(&o.name, "name", "`NAME` of the account or sidecar")
	text(&o.label, "label", "`TEXT` that says what the key is for")
	text(&o.file, "file", "`FILE` with a JSON object in each line; - is standard input")
	f.Func("scope", "`NAME` of a scope; repeat the flag for more", func(v string) error {
		o.scopes = append(o.scopes, v)
		return notEmpty(v)
	})
	f.Func("sha256", "SHA-256 of the key's plaintext in `HEX`, 64 digits", func(v string) error {
		o.sha256 = strings.ToLower(v)
		_, err := credential.ParseDigest(o.sha256)
		return err
	})
	f.Func("expires", "`WHEN` the key expires: a duration from now (720h, 30d) or a time (RFC 3339); default never", func(v string) (err error) {
		o.expires, err = parseExpires(v, time.Now())
		return err
	})
	f.Func("grace", "`DURATION` for which the old key stays active (1h, 7d); default 0", func(v string) (err error) {
		o.grace, err = parseSeconds(v)
		return err
	})
	f.Func("ttl", "`DURATION` of the session (1h, 7d); default 12h", func(v string) (err error) {
		if o.ttl, err = parseSeconds(v); err == nil && o.ttl == 0 {
			err = errors.New("must be more than 0")
		}
		return err
	})
	f.Func("wait", "`DURATION` of the longest wait until no sidecar can act on the old fact any more", func(v string) (err error) {
		o.wait = true
		o.waits, err = parseDuration(v)
		return err
	})
	f.BoolVar(&o.chain, "chain", false, "also revoke the predecessors and successors of the key by rolls")
	return f
}

func notEmpty(v string) error {
	if v == "" {
		return errors.New("must not be empty")
	}
	return nil
}

var errDuration = errors.New("must be a duration such as 90s, 15m, 720h, 30d or 0")

// parseDuration parses a duration of time.ParseDuration, optionally after a number of days. It
// must not be negative.
func parseDuration(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	days, rest, hasDays := strings.Cut(s, "d")
	if !hasDays {
		days, rest = "0", s
	}
	n, err := strconv.ParseUint(days, 10, 16) // 65535 days are 179 years, so they do not overflow
	if err != nil {
		return 0, errDuration
	}
	total := time.Duration(n) * day
	if rest == "" && hasDays {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || total+d < total {
		return 0, errDuration
	}
	return total + d, nil
}

// parseSeconds parses a duration that the API expects as a number of seconds.
func parseSeconds(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err == nil && d%time.Second != 0 {
		err = errors.New("must be whole seconds")
	}
	return d, err
}

// parseExpires parses a duration from now or a time.
func parseExpires(s string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, strings.ToUpper(s)); err == nil { // RFC 3339 allows "t" and "z"
		return at.UTC(), nil
	}
	d, err := parseDuration(s)
	if err != nil || d == 0 {
		return time.Time{}, errors.New("must be a duration from now such as 720h or 30d, or a time such as 2030-01-31T12:00:00Z")
	}
	return now.Add(d).UTC().Truncate(time.Millisecond), nil
}
