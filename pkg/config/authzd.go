package config

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Authzd is the configuration of the sidecar.
type Authzd struct {
	// Listeners.
	Listen AuthzdListen `yaml:"listen"`
	// Connection to the key API.
	KeyAPI KeyAPI `yaml:"key_api"`
	// Size of the cache, and how long its entries may answer.
	Cache Cache `yaml:"cache"`
	// Rate limit of lookups of digests never seen.
	Admission Admission `yaml:"admission"`
	// Web app, whose session cookies are accepted.
	WebApp WebApp `yaml:"web_app"`
	// API keys.
	Keys Keys `yaml:"keys"`
	// Requirements of endpoints, only for meshes that cannot send context extensions. An exact path
	// comes before a prefix, a longer path before a shorter one, and of the same path, an entry with
	// the request's host before one without a host.
	Endpoints []Endpoint `yaml:"endpoints"`
	// Decide, count and report, but always allow.
	Shadow bool `yaml:"shadow"`
	// Longest wait for the first answer of the key API before `/readyz` is 200.
	StartWait Duration `yaml:"start_wait" range:"0..10m" restart:"yes"`
	// Time from SIGTERM to the drain. The program is not ready, but it still answers.
	DrainDelay Duration `yaml:"drain_delay" range:"0..10m"`
	// Time limit of the drain, in which checks in flight end.
	Drain Duration `yaml:"drain" range:"100ms..10m"`
	// Log.
	Log Log `yaml:"log"`
	// OpenTelemetry traces, which continue sampled traces of the caller. Without the field there are
	// none.
	Tracing *Tracing `yaml:"tracing,omitempty" restart:"yes"`
}

// AuthzdListen has the listeners of authzd.
type AuthzdListen struct {
	// Addresses for Check and grpc.health.v1. `tcp://[::]:PORT` is every interface, IPv4 and IPv6.
	Check []Address `yaml:"check,flow" restart:"yes"`
	// Address of `/livez`, `/readyz`, `/metrics` and `/debug/pprof/`.
	Admin Address `yaml:"admin" restart:"yes"`
	// TLS of the tcp:// addresses of check. Changed files are read again without a restart.
	TLS *ServerTLS `yaml:"tls,omitempty" restart:"yes"`
}

// KeyAPI is the connection to the key API.
type KeyAPI struct {
	// Base URL: http://, https:// or unix:///PATH of a socket.
	URL string `yaml:"url" required:"yes" restart:"yes"`
	// File with the token that the sidecar presents. Without it, the sidecar presents none.
	TokenFile File `yaml:"token_file,omitempty" file:"secret"`
	// Time limit of one resolve, retries included. It must be below Envoy's timeout of the check, so
	// that Envoy receives the sidecar's answer.
	Timeout Duration `yaml:"timeout" range:"1ms..30s"`
	// Whether the key API must offer the change log. With `optional`, a 404 from `/v1/changes` puts
	// the sidecar into time-to-live mode; with `required`, it is an error like any other.
	Changes string `yaml:"changes" oneof:"required|optional" restart:"yes"`
	// TLS towards an https:// key API.
	TLS *ClientTLS `yaml:"tls,omitempty"`
}

// Values of KeyAPI.Changes.
const (
	ChangesRequired = "required"
	ChangesOptional = "optional"
)

// Base returns the parsed URL.
func (k KeyAPI) Base() *url.URL {
	u, err := url.Parse(k.URL)
	if err != nil {
		return &url.URL{} // not after a load, which has parsed it
	}
	return u
}

// Cache has the sizes of the cache and the times of its entries.
type Cache struct {
	// Number of credentials in force that are cached.
	Credentials int `yaml:"credentials" range:"1..100000000" restart:"yes"`
	// Number of unknown digests that are cached, in a separate pool. The pool also holds revoked and
	// expired credentials and those of terminated accounts.
	Unknown int `yaml:"unknown" range:"1..100000000" restart:"yes"`
	// Longest time between two revalidations of a credential while the lease is live.
	MaxAge Duration `yaml:"max_age" range:"1ms..168h"`
	// Longest time between two revalidations of a credential after the lease was lost and in
	// time-to-live mode.
	ConfirmAfter Duration `yaml:"confirm_after" range:"0..168h"`
	// How long after the end of the last lease cached entries may answer; 0: not at all.
	MaxStale Duration `yaml:"max_stale" range:"0..168h"`
}

// Admission limits the rate of lookups of digests never seen. A lookup that finds a credential in
// force does not count.
type Admission struct {
	// Lookups per second in the long run.
	UnknownPerSecond int `yaml:"unknown_per_second" range:"1..1000000"`
	// Lookups in a burst.
	Burst int `yaml:"burst" range:"1..1000000"`
}

// WebApp is the web app whose session cookies are accepted.
type WebApp struct {
	// Origin as browsers send it: scheme, host, and the port unless it is the default of the scheme.
	Origin string `yaml:"origin"`
	// Name of the session cookie.
	Cookie string `yaml:"cookie"`
	// Scopes of every session.
	Scopes []string `yaml:"scopes,flow"`
}

// Values of Keys.ForeignFormat.
const (
	LookUpForeign = "lookup"
	RefuseForeign = "refuse"
)

// Keys has the settings of API keys.
type Keys struct {
	// Whether keys without the prefix `phk_` are looked up, or refused without a lookup.
	ForeignFormat string `yaml:"foreign_format" oneof:"lookup|refuse"`
}

// Endpoint is the requirement of one endpoint. It has either path or prefix. Two entries must not
// have the same path, the same host and a method in common.
type Endpoint struct {
	// Methods that the entry matches. Without the field it matches all.
	Methods []string `yaml:"methods,omitempty,flow"`
	// Exact path, without a query. Escapes of unreserved characters are decoded, here and in the
	// request. Excludes prefix.
	Path string `yaml:"path,omitempty"`
	// Path prefix of whole segments: /a matches /a and /a/b, not /ab. Excludes path.
	Prefix string `yaml:"prefix,omitempty"`
	// Host that the entry matches, regardless of case, without port and trailing dot. Without the
	// field it matches all.
	Host string `yaml:"host,omitempty"`
	// Required scopes, separated by spaces. All of them are required.
	Scope string `yaml:"scope,omitempty" empty:"yes"`
	// Kind of credential that is accepted.
	Principal string `yaml:"principal" oneof:"any|key|session"`
}

// Entry returns the endpoint as an entry of the policy's table.
func (e Endpoint) Entry() policy.Endpoint {
	principal, _ := policy.ParsePrincipal(e.Principal)
	entry := policy.Endpoint{Methods: e.Methods, Host: e.Host, Path: e.Path, Requirement: policy.NewRequirement(principal, e.Scope)}
	if e.Prefix != "" {
		entry.Path, entry.Prefix = e.Prefix, true
	}
	return entry
}

func (a *Authzd) setDefaults() {
	*a = Authzd{
		Listen: AuthzdListen{
			Check: []Address{TCP("127.0.0.1:9191")},
			Admin: TCP("127.0.0.1:9192"),
		},
		KeyAPI: KeyAPI{Timeout: Duration{400 * time.Millisecond}, Changes: ChangesRequired},
		Cache: Cache{
			Credentials:  100_000,
			Unknown:      50_000,
			MaxAge:       Duration{time.Hour},
			ConfirmAfter: Duration{10 * time.Second},
			MaxStale:     Duration{15 * time.Minute},
		},
		Admission: Admission{UnknownPerSecond: 200, Burst: 400},
		WebApp: WebApp{
			Origin: "https://app.phantomrouter.ai",
			Cookie: "phantom_session",
			Scopes: []string{"chat:companion"},
		},
		Keys:      Keys{ForeignFormat: LookUpForeign},
		StartWait: Duration{10 * time.Second},
		Drain:     Duration{10 * time.Second},
		Log:       Log{Level: "info"},
	}
}

func (e *Endpoint) setDefaults() { e.Principal = "any" }

// LoadAuthzd loads the configuration of authzd, with defaults for absent fields. The path "" means
// no file. The error has one line for each mistake.
func LoadAuthzd(path string) (*Authzd, error) { return load[Authzd](path, allFiles) }

// CheckAuthzd returns the mistakes that LoadAuthzd finds, without those about named files that do
// not exist.
func CheckAuthzd(path string) error { _, err := load[Authzd](path, existingFiles); return err }

// ReadAuthzd is LoadAuthzd for tools that do not serve: named files that do not exist are no mistakes,
// and the path "" means the defaults.
func ReadAuthzd(path string) (*Authzd, error) {
	if path != "" {
		return load[Authzd](path, existingFiles)
	}
	cfg := new(Authzd)
	cfg.setDefaults()
	return cfg, nil
}

// AuthzdAdmin returns the admin address in a file, even if the file has other mistakes: a health
// check must not fail because of a file that the running program has refused. If the address
// cannot be read, it returns the default and an error.
func AuthzdAdmin(path string) (Address, error) {
	cfg, err := loadListen[Authzd](path)
	return cfg.Listen.Admin, err
}

func (a *Authzd) validate(r *report) {
	if len(a.Listen.Check) == 0 && !r.hasMistake("listen.check") {
		r.invalid("listen.check", "must have at least one address")
	}
	var check []listener
	for i, address := range a.Listen.Check {
		check = append(check, listener{element("listen.check", i), address})
	}
	r.addresses(append(slices.Clone(check), listener{"listen.admin", a.Listen.Admin}), check, a.Listen.TLS)
	a.KeyAPI.validate(r)
	a.WebApp.validate(r)
	a.Tracing.validate(r)
	r.endpoints(a.Endpoints)
}

const keyAPIForm = "http://HOST[:PORT], https://HOST[:PORT] or unix:///PATH"

func (k *KeyAPI) validate(r *report) {
	if k.TLS != nil {
		r.clientTLS("key_api.tls", k.TLS)
	}
	if k.URL == "" {
		return // a mistake already
	}
	u, ok := r.url("key_api.url", k.URL, keyAPIForm, "http", "https", "unix")
	if !ok {
		return
	}
	err := checkWebHost(u)
	if u.Scheme == "unix" {
		err = checkSocketPath(strings.TrimPrefix(k.URL, "unix://"))
	}
	if err != nil {
		r.invalid("key_api.url", err.Error())
	}
	if k.TLS != nil && u.Scheme != "https" {
		r.invalid("key_api.tls", "must be used with an https:// URL")
	}
}

const originForm = "https://HOST[:PORT] or http://HOST[:PORT]"

func (w *WebApp) validate(r *report) {
	r.scopes("web_app.scopes", w.Scopes)
	if len(w.Cookie) > 128 || !isToken(w.Cookie) {
		r.invalid("web_app.cookie", "must be a cookie name: up to 128 ASCII letters, digits and any of !#$%&'*+-.^_`|~")
	}
	u, ok := r.url("web_app.origin", w.Origin, originForm, "https", "http")
	if !ok {
		return
	}
	if err := checkWebHost(u); err != nil {
		r.invalid("web_app.origin", err.Error())
	} else if !isOrigin(u, w.Origin) {
		r.invalid("web_app.origin", "must be an origin as browsers send it: lower case, without path and default port")
	}
}

// isOrigin reports whether a browser can send the value as Origin. The comparison is exact.
func isOrigin(u *url.URL, value string) bool {
	defaultPort := u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80"
	return u.Path == "" && strings.ToLower(value) == value && !defaultPort
}

// isToken reports whether s is a token of RFC 9110: the name of a cookie or a method.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, tokenCharacters) == ""
}

const tokenCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"

// endpoints reports entries of the table that can never match, and two that match the same
// request with the same precedence.
func (r *report) endpoints(table []Endpoint) {
	entries := make([]policy.Endpoint, len(table))
	for i, e := range table {
		field := element("endpoints", i)
		r.endpoint(field, e)
		var err error
		if entries[i], err = e.Entry().Normalize(); err != nil {
			continue // a mistake already
		}
		for j, other := range entries[:i] {
			if method, both := entries[i].Overlap(other); both {
				r.invalid(field, "must not have the path, host and method ("+cmp.Or(method, "any")+") of "+element("endpoints", j))
				break
			}
		}
	}
}

func (r *report) endpoint(field string, e Endpoint) {
	r.endpointPath(field, e)
	r.endpointHost(field+".host", e.Host)
	r.notEmpty(field+".methods", e.Methods, "must have at least one method; without the field, all methods match")
	isMethod := func(m string) bool { return isToken(m) && strings.ToUpper(m) == m }
	r.unique(field+".methods", e.Methods, isMethod, "must be a method in capital letters, such as GET")
	for name := range strings.FieldsSeq(e.Scope) {
		if !credential.ValidScope(name) {
			r.invalid(field+".scope", "must be scopes separated by spaces, each "+scopeForm)
			break
		}
	}
}

func (r *report) endpointPath(field string, e Endpoint) {
	hasPath, hasPrefix := r.given(field+".path"), r.given(field+".prefix")
	switch {
	case hasPath == hasPrefix:
		if !r.hasMistake(field) {
			r.invalid(field, "must have either path or prefix")
		}
	case e.Path != "":
		if _, err := policy.NormalizePath(e.Path); err != nil {
			r.invalid(field+".path", err.Error())
		}
	case e.Prefix != "":
		if _, err := policy.NormalizePrefix(e.Prefix); err != nil {
			r.invalid(field+".prefix", err.Error())
		}
	}
}

func (r *report) endpointHost(field, host string) {
	if _, err := policy.NormalizeHost(host); err != nil {
		r.invalid(field, err.Error())
		return
	}
	name, isIPv6 := strings.CutPrefix(host, "[")
	name = strings.TrimSuffix(name, "]")
	if host != "" && (!isHost(name) || isIPv6 != strings.Contains(name, ":")) {
		r.invalid(field, "must be one host name or address, with an IPv6 address in brackets")
	}
}
