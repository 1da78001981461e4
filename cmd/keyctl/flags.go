package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// options is what the flags say.
type options struct {
	url, tokenFile    string
	caFile            string
	certFile, keyFile string
	json              bool
	id, account, key  string
	name, label       string
	scopes            []string
	sha256, file      string
	expires           time.Time // zero: never
	grace, ttl, waits time.Duration
	wait              bool // -wait was given
	chain             bool
}

func (o options) newKey() operatorapi.NewKey {
	return operatorapi.NewKey{Label: o.label, Scopes: o.scopes, ExpiresAt: o.expires}
}

// flagSpec is one flag. It takes a value unless that has no name here: then it may be given
// alone, which means true.
type flagSpec struct {
	name, value, help string
	global            bool   // may be given with every command
	env               string // where the value comes from if the flag is not given
	optional          bool   // with env: may be missing in both
	many              bool   // may be repeated
	set               func(o *options, value string) error
}

// flags is every flag that there is, but for -h and -version.
var flags = []flagSpec{
	{
		name: "url", value: "URL", global: true, env: "KEYCTL_URL",
		help: "the key API's listener for operators: http://HOST:PORT, https://HOST:PORT or unix:///PATH",
		set:  text(func(o *options) *string { return &o.url }),
	},
	{
		name: "token-file", value: "FILE", global: true, env: "KEYCTL_TOKEN_FILE", help: "the file that holds the operator's token",
		set: text(func(o *options) *string { return &o.tokenFile }),
	},
	{
		name: "ca-file", value: "FILE", global: true, env: "KEYCTL_CA_FILE", optional: true,
		help: "CAs in PEM that an https:// key API's certificate is checked with, in place of the system's",
		set:  text(func(o *options) *string { return &o.caFile }),
	},
	{
		name: "cert-file", value: "FILE", global: true, env: "KEYCTL_CERT_FILE", optional: true,
		help: "the certificate in PEM to show to an https:// key API; needs -key-file",
		set:  text(func(o *options) *string { return &o.certFile }),
	},
	{
		name: "key-file", value: "FILE", global: true, env: "KEYCTL_KEY_FILE", optional: true,
		help: "the certificate's private key in PEM; needs -cert-file",
		set:  text(func(o *options) *string { return &o.keyFile }),
	},
	{
		name: "o", value: "FORMAT", global: true, help: "table (for people, the default) or json (the API's JSON; lists whole)",
		set: setOutput,
	},
	{
		name: "id", value: "ID", help: "the account, key or session that the command is about; with account create the id to give",
		set: text(func(o *options) *string { return &o.id }),
	},
	{
		name: "account", value: "ID", help: "the account that it belongs to",
		set: text(func(o *options) *string { return &o.account }),
	},
	{
		name: "key", value: "ID", help: "only what is about this key",
		set: text(func(o *options) *string { return &o.key }),
	},
	{name: "name", value: "NAME", help: "the account's name, or the sidecar's", set: text(func(o *options) *string { return &o.name })},
	{name: "label", value: "TEXT", help: "what the key is for", set: text(func(o *options) *string { return &o.label })},
	{
		name: "scope", value: "NAME", many: true, help: "a scope; repeat the flag for more",
		set: func(o *options, v string) error { o.scopes = append(o.scopes, v); return nil },
	},
	{
		name: "file", value: "FILE",
		help: "keys, each a line with a JSON object of account, sha256, label and, if wanted, scopes and expires_at; - is standard input",
		set:  text(func(o *options) *string { return &o.file }),
	},
	{name: "sha256", value: "HEX", help: "the SHA-256 of the plaintext, 64 hexadecimal digits", set: setDigest},
	{name: "expires", value: "WHEN", help: "a duration from now (720h, 30d) or a time (RFC 3339); without it never", set: setExpires},
	{
		name: "grace", value: "DURATION", help: "how long the old key stays in force (1h, 7d); without it not at all",
		set: func(o *options, v string) (err error) { o.grace, err = parseSeconds(v); return err },
	},
	{name: "ttl", value: "DURATION", help: "how long the session lasts (1h, 7d); without it 12h", set: setTTL},
	{
		name: "chain", help: "revoke every key of its chain, too: successors after rolls, and the keys before it",
		set: func(o *options, v string) (err error) { o.chain, err = parseSwitch(v); return err },
	},
	{
		name: "wait", value: "DURATION", help: "wait until no sidecar can still act on the old fact, at most so long",
		set: func(o *options, v string) (err error) { o.wait = true; o.waits, err = parseDuration(v); return err },
	},
}

func text(field func(*options) *string) func(*options, string) error {
	return func(o *options, v string) error { *field(o) = v; return nil }
}

func parseSwitch(v string) (bool, error) {
	if v != "true" && v != "false" {
		return false, errors.New("it is true or false")
	}
	return v == "true", nil
}

func setOutput(o *options, v string) error {
	if v != "json" && v != "table" {
		return errors.New("it is table or json")
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
		err = errors.New("it is more than 0")
	}
	return err
}

var errDuration = errors.New("it is a duration such as 90s, 15m, 720h, 30d or 0")

// parseDuration reads what Go reads, with days before it, from 0.
func parseDuration(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	days, rest, hasDays := strings.Cut(s, "d")
	if !hasDays {
		days, rest = "0", s
	}
	n, err := strconv.ParseUint(days, 10, 16) // 65535 days are 179 years: no overflow
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

// parseSeconds reads a duration that the API takes as a number of seconds.
func parseSeconds(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err == nil && d%time.Second != 0 {
		err = errors.New("it is whole seconds")
	}
	return d, err
}

// parseExpires reads a duration from now or a time.
func parseExpires(s string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, strings.ToUpper(s)); err == nil { // "t" and "z" are allowed, too
		return at.UTC(), nil
	}
	d, err := parseDuration(s)
	if err != nil || d == 0 {
		return time.Time{}, errors.New("it is a duration from now such as 720h or 30d, or a time such as 2030-01-31T12:00:00Z")
	}
	return now.Add(d).UTC().Truncate(time.Millisecond), nil
}

func flagNamed(name string) *flagSpec {
	at := slices.IndexFunc(flags, func(f flagSpec) bool { return f.name == name })
	if at < 0 {
		return nil
	}
	return &flags[at]
}

// commandLine is the arguments, taken apart. Flags may stand anywhere.
type commandLine struct {
	words   []string
	names   []string // of the flags, in their order
	values  map[string][]string
	noValue []string // flags at the end, or with another flag where a value is due
	help    bool
	version bool
}

func parse(args []string) commandLine {
	line := commandLine{values: map[string][]string{}}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if len(arg) < 2 || arg[0] != '-' {
			line.words = append(line.words, arg)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		switch {
		case (name == "h" || name == "help") && !hasValue:
			line.help = true
			continue
		case name == "version" && !hasValue:
			line.version = true
			continue
		case !hasValue && isSwitch(name):
			value, hasValue = "true", true
		case !hasValue && len(args) > 0 && !isFlag(args[0]):
			value, hasValue, args = args[0], true, args[1:]
		}
		line.names = append(line.names, name)
		if !hasValue {
			line.noValue = append(line.noValue, name)
			continue
		}
		line.values[name] = append(line.values[name], value)
	}
	return line
}

// isFlag tells whether an argument is one of our flags: a value that merely begins with a
// dash is none, and one that looks like a flag can be given as -label=-id.
func isFlag(arg string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
	return strings.HasPrefix(arg, "-") && (flagNamed(name) != nil || slices.Contains([]string{"h", "help", "version"}, name))
}

// isSwitch reports whether the flag may be given without a value.
func isSwitch(name string) bool {
	f := flagNamed(name)
	return f != nil && f.value == ""
}

// form returns the row of the same name that the flags choose.
func (l commandLine) form(cmd *command) *command {
	for i := range commands {
		if c := &commands[i]; c.name == cmd.name && c.form != "" && slices.Contains(l.names, c.form) {
			return c
		}
	}
	return cmd
}

// check compares the flags with those that the command has, and lists what is wrong.
func (l commandLine) check(cmd *command) (problems []string) {
	allowed := cmd.flags()
	almost := map[string]bool{}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(l.names))) {
		values := l.values[name]
		switch {
		case !slices.Contains(allowed, name):
			near := nearest(name, allowed)
			almost[near] = true
			problems = append(problems, fmt.Sprintf("%q has no flag %s%s; it takes -%s",
				cmd.title(), shown("-"+name), didYouMean("-", near), strings.Join(allowed, ", -")))
		case slices.Contains(l.noValue, name):
			problems = append(problems, "flag -"+name+" has no value")
		case len(values) > 1 && !flagNamed(name).many:
			problems = append(problems, "flag -"+name+" is given more than once")
		}
		for _, v := range values {
			problems = append(problems, badValue(name, v)...)
		}
	}
	for _, name := range cmd.needs {
		if !slices.Contains(l.names, name) && !almost[name] {
			problems = append(problems, fmt.Sprintf("flag -%s is missing: %s", name, flagNamed(name).help))
		}
	}
	return problems
}

// badValue finds what no flag may hold.
func badValue(name, v string) []string {
	switch {
	case v == "":
		return []string{"flag -" + name + " is empty"}
	case plaintext(v):
		return []string{"flag -" + name + " holds the plaintext of a key or session, which belongs in no command line: give its id (key_…, ses_…)"}
	}
	return nil
}

func plaintext(v string) bool {
	shape := credential.ShapeOf(v)
	return shape == credential.KeyShape || shape == credential.SessionShape
}

// read sets the options from the flags and the environment.
func (l commandLine) read(getenv func(string) string) (o options, problems []string) {
	for _, f := range flags {
		values, from := l.values[f.name], "flag -"+f.name
		if f.env != "" && !slices.Contains(l.names, f.name) {
			if v := getenv(f.env); v != "" {
				values, from = []string{v}, f.env
			} else if !f.optional {
				problems = append(problems, fmt.Sprintf("flag -%s (or %s) is missing: %s", f.name, f.env, f.help))
			}
		}
		for _, v := range values {
			if err := f.set(&o, v); err != nil && v != "" { // check tells of an empty one
				problems = append(problems, fmt.Sprintf("%s is %s: %v", from, shown(v), err))
			}
		}
	}
	return o, problems
}

// nearest finds the allowed name that was probably meant, or "".
func nearest(found string, allowed []string) string {
	best, distance := "", 3+len(found)/8 // a slip is a letter or two
	for _, name := range allowed {
		if d := levenshtein.ComputeDistance(strings.ToLower(found), name); d < min(distance, len(found), len(name)) {
			best, distance = name, d
		}
	}
	return best
}

func didYouMean(prefix, name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", prefix+name)
}
