package main

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// options holds the values of the flags.
type options struct {
	url, tokenFile    string
	caFile            string
	certFile, keyFile string
	json              bool
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

// flagSpec is one row of the table of flags.
type flagSpec struct {
	name, short string
	value       string // what the help calls the value; "" for a switch, which is true without a value
	help        string
	global      bool   // every command has it
	env         string // environment variable that is used if the flag is not given
	needed      bool   // with env: one of both must be given
	many        bool   // may be repeated
	set         func(o *options, value string) error
}

func (f *flagSpec) isSwitch() bool { return f.value == "" }

// flags holds all flags except --help and --version.
var flags = []flagSpec{
	{
		name: "url", value: "URL", global: true, env: "KEYCTL_URL", needed: true,
		help: "the key API's listener for operators: http://HOST:PORT, https://HOST:PORT or unix:///PATH",
		set:  text(func(o *options) *string { return &o.url }),
	},
	{
		name: "token-file", value: "FILE", global: true, env: "KEYCTL_TOKEN_FILE", needed: true, help: "file with the operator's token",
		set: text(func(o *options) *string { return &o.tokenFile }),
	},
	{
		name: "ca-file", value: "FILE", global: true, env: "KEYCTL_CA_FILE",
		help: "CA certificates in PEM that verify the key API's certificate, instead of the system's",
		set:  text(func(o *options) *string { return &o.caFile }),
	},
	{
		name: "cert-file", value: "FILE", global: true, env: "KEYCTL_CERT_FILE",
		help: "client certificate in PEM; requires --key-file",
		set:  text(func(o *options) *string { return &o.certFile }),
	},
	{
		name: "key-file", value: "FILE", global: true, env: "KEYCTL_KEY_FILE",
		help: "private key of the client certificate in PEM",
		set:  text(func(o *options) *string { return &o.keyFile }),
	},
	{
		name: "output", short: "o", value: "FORMAT", global: true, help: "table (the default) or json (the API's JSON, lists with all pages)",
		set: setOutput,
	},
	{
		name: "id", value: "ID", help: "ID of the account, key or session; for account create, the ID to give",
		set: text(func(o *options) *string { return &o.id }),
	},
	{name: "account", value: "ID", help: "account that it belongs to", set: text(func(o *options) *string { return &o.account })},
	{name: "key", value: "ID", help: "list only changes of this key", set: text(func(o *options) *string { return &o.key })},
	{name: "name", value: "NAME", help: "name of the account or sidecar", set: text(func(o *options) *string { return &o.name })},
	{name: "label", value: "TEXT", help: "purpose of the key", set: text(func(o *options) *string { return &o.label })},
	{
		name: "scope", value: "NAME", many: true, help: "a scope; repeat the flag for more",
		set: func(o *options, v string) error { o.scopes = append(o.scopes, v); return nil },
	},
	{
		name: "file", value: "FILE", help: "file with a JSON object in each line; - is standard input",
		set: text(func(o *options) *string { return &o.file }),
	},
	{name: "sha256", value: "HEX", help: "SHA-256 of the key's plaintext, 64 hexadecimal digits", set: setDigest},
	{name: "expires", value: "WHEN", help: "duration from now (720h, 30d) or time (RFC 3339); default never", set: setExpires},
	{
		name: "grace", value: "DURATION", help: "time for which the old key stays active (1h, 7d); default 0",
		set: func(o *options, v string) (err error) { o.grace, err = parseSeconds(v); return err },
	},
	{name: "ttl", value: "DURATION", help: "lifetime of the session (1h, 7d); default 12h", set: setTTL},
	{
		name: "chain", help: "also revoke the predecessors and successors of the key by rolls",
		set: setChain,
	},
	{
		name: "wait", value: "DURATION", help: "wait for at most this long until no sidecar can act on the old fact any more",
		set: func(o *options, v string) (err error) { o.wait = true; o.waits, err = parseDuration(v); return err },
	},
}

func flagNamed(name string) *flagSpec {
	at := slices.IndexFunc(flags, func(f flagSpec) bool { return f.name == name })
	if at < 0 {
		return nil
	}
	return &flags[at]
}

// addFlag defines a flag that sets the options.
func (c *cli) addFlag(cmd *cobra.Command, set *pflag.FlagSet, f *flagSpec) {
	set.VarP(&flagValue{flagSpec: f, opts: &c.opts}, f.name, f.short, f.help)
	switch {
	case f.isSwitch():
		set.Lookup(f.name).NoOptDefVal = "true"
	case f.value == "FILE":
		_ = cmd.RegisterFlagCompletionFunc(f.name, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	case f.value == "FORMAT":
		_ = cmd.RegisterFlagCompletionFunc(f.name, cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	}
}

// flagValue is a flag of a command.
type flagValue struct {
	*flagSpec
	opts *options
}

// Set implements pflag.Value.
func (v *flagValue) Set(text string) error {
	if text == "" {
		return errors.New("must not be empty")
	}
	return v.set(v.opts, text)
}

// String implements pflag.Value. It is called for the default only.
func (v *flagValue) String() string {
	if v.flagSpec != nil && v.isSwitch() {
		return "false"
	}
	return ""
}

// Type implements pflag.Value. The help shows it as the value.
func (v *flagValue) Type() string {
	if v.isSwitch() {
		return "bool"
	}
	return v.value
}

func text(field func(*options) *string) func(*options, string) error {
	return func(o *options, v string) error { *field(o) = v; return nil }
}

func setChain(o *options, v string) error {
	if v != "true" && v != "false" {
		return errors.New("must be true or false")
	}
	o.chain = v == "true"
	return nil
}

func setOutput(o *options, v string) error {
	if v != "json" && v != "table" {
		return errors.New("must be table or json")
	}
	o.json = v == "json"
	return nil
}

func setDigest(o *options, v string) error {
	o.sha256 = strings.ToLower(v)
	_, err := credential.ParseDigest(o.sha256)
	return err
}

func setExpires(o *options, v string) (err error) {
	o.expires, err = parseExpires(v, time.Now())
	return err
}

func setTTL(o *options, v string) (err error) {
	if o.ttl, err = parseSeconds(v); err == nil && o.ttl == 0 {
		err = errors.New("must be more than 0")
	}
	return err
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
