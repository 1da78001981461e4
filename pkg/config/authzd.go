package config

import (
	"net/url"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Authzd is the configuration of the sidecar.
type Authzd struct {
	// Where the sidecar listens.
	Listen AuthzdListen `yaml:"listen"`
	// The key API that knows the credentials.
	KeyAPI KeyAPI `yaml:"key_api"`
	// What may be answered from memory, and for how long.
	Cache Cache `yaml:"cache"`
	// How many look-ups of digests never seen reach the key API.
	Admission Admission `yaml:"admission"`
	// The web app, whose session cookies are accepted.
	WebApp WebApp `yaml:"web_app"`
	// API keys.
	Keys Keys `yaml:"keys"`
	// What endpoints require, only for meshes that cannot send context extensions. An
	// exact path is looked at before a prefix and a longer before a shorter; of one
	// path, entries with the request's host before those without.
	Endpoints []Endpoint `yaml:"endpoints"`
	// Decide, count and report, but always allow.
	Shadow bool `yaml:"shadow"`
	// The key API's first answer is waited for so long before `/readyz` is 200 all the same.
	StartWait time.Duration `yaml:"start_wait" range:"0..10m" restart:"yes"`
	// After SIGTERM the program is not ready, but still answers for this long before the drain begins.
	DrainDelay time.Duration `yaml:"drain_delay" range:"0..10m"`
	// Checks under way may take so long to end when the program stops.
	Drain time.Duration `yaml:"drain" range:"100ms..10m"`
	// What is logged.
	Log Log `yaml:"log"`
}

// AuthzdListen is where authzd listens.
type AuthzdListen struct {
	// Addresses for Check and grpc.health.v1. `tcp://[::]:PORT` is every interface, for IPv4
	// and IPv6.
	Check []Address `yaml:"check" restart:"yes"`
	// Address of `/livez`, `/readyz`, `/metrics` and `/debug/pprof/`.
	Admin Address `yaml:"admin" restart:"yes"`
	// TLS of the check addresses that are tcp://. Files that change are read anew without a restart.
	TLS *ServerTLS `yaml:"tls" restart:"yes"`
}

// KeyAPI is how the key API is reached.
type KeyAPI struct {
	// Base URL: http://, https:// or unix:///PATH of a socket.
	URL string `yaml:"url" required:"yes" restart:"yes"`
	// File with the token that the sidecar presents; without one it presents none.
	TokenFile File `yaml:"token_file" file:"secret"`
	// Limit of one resolve, retries included. Below Envoy's timeout for the check, so
	// that the answer is ours.
	Timeout time.Duration `yaml:"timeout" range:"1ms..30s"`
	// Whether the key API must offer the change log. With `optional`, a 404 from `/v1/changes` puts
	// the sidecar into time-to-live mode; with `required` it is an error like any other.
	Changes string `yaml:"changes" oneof:"required|optional" restart:"yes"`
	// TLS towards an https:// key API.
	TLS *ClientTLS `yaml:"tls"`
}

// Values of KeyAPI.Changes.
const (
	ChangesRequired = "required"
	ChangesOptional = "optional"
)

// Base returns the URL, parsed.
func (k KeyAPI) Base() *url.URL {
	u, err := url.Parse(k.URL)
	if err != nil {
		return &url.URL{} // not after a load, which has parsed it
	}
	return u
}

// Cache is what authzd may answer from memory.
type Cache struct {
	// Credentials in force that are kept.
	Credentials int `yaml:"credentials" range:"1..100000000" restart:"yes"`
	// Unknown digests kept, in a separate pool. Revoked and expired credentials and those of terminated
	// accounts are kept there, too.
	Unknown int `yaml:"unknown" range:"1..100000000" restart:"yes"`
	// With a lease, each credential is confirmed at least so often.
	MaxAge time.Duration `yaml:"max_age" range:"1ms..168h"`
	// With the lease lost, or a key API without changes, each credential is confirmed so often.
	ConfirmAfter time.Duration `yaml:"confirm_after" range:"0..168h"`
	// How long after the end of the last lease anything cached may still answer; 0: not at all.
	MaxStale time.Duration `yaml:"max_stale" range:"0..168h"`
}

// Admission limits the look-ups of digests never seen. One that finds a
// credential does not count.
type Admission struct {
	// Look-ups per second in the long run.
	UnknownPerSecond int `yaml:"unknown_per_second" range:"1..1000000"`
	// Look-ups at once after a quiet time.
	Burst int `yaml:"burst" range:"1..1000000"`
}

// WebApp is whose session cookies are accepted.
type WebApp struct {
	// Origin as browsers send it: scheme, host and a port that is not the scheme's own.
	Origin string `yaml:"origin"`
	// Name of the session cookie.
	Cookie string `yaml:"cookie"`
	// Scopes that every session carries.
	Scopes []string `yaml:"scopes"`
}

// What happens to keys that do not have this product's format.
const (
	LookUpForeign = "lookup"
	RefuseForeign = "refuse"
)

// Keys is about API keys.
type Keys struct {
	// Keys without the prefix `phk_`: looked up like any other, or refused without a look-up.
	ForeignFormat string `yaml:"foreign_format" oneof:"lookup|refuse"`
}

// Endpoint says what one endpoint requires. Exactly one of path and prefix is
// given; two entries must not have the same path, host and a method in common.
type Endpoint struct {
	// Methods that the entry is for; without, all of them.
	Methods []string `yaml:"methods,omitempty"`
	// Exact path, without a query. Escapes of unreserved characters are decoded, here and in the
	// request. Excludes prefix.
	Path string `yaml:"path"`
	// Path whose whole segments begin the request's: /a takes /a and /a/b, not /ab. Excludes path.
	Prefix string `yaml:"prefix"`
	// Host that the entry is for, in any case, without port and trailing dot; without, all of them.
	Host string `yaml:"host"`
	// Scopes that are needed, all of them, separated by spaces.
	Scope string `yaml:"scope" empty:"yes"`
	// Who may use it.
	Principal string `yaml:"principal" oneof:"any|key|session"`
}

// Requirement returns what the endpoint requires, in the words of the policy.
func (e Endpoint) Requirement() policy.Requirement {
	principal, _ := policy.ParsePrincipal(e.Principal) // what cannot be read is Nobody
	return policy.NewRequirement(principal, e.Scope)
}

// Entry returns the endpoint as an entry of the policy's table.
func (e Endpoint) Entry() policy.Endpoint {
	entry := policy.Endpoint{Methods: e.Methods, Host: e.Host, Path: e.Path, Requirement: e.Requirement()}
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
		KeyAPI: KeyAPI{Timeout: 400 * time.Millisecond, Changes: ChangesRequired},
		Cache: Cache{
			Credentials:  100_000,
			Unknown:      50_000,
			MaxAge:       time.Hour,
			ConfirmAfter: 10 * time.Second,
			MaxStale:     15 * time.Minute,
		},
		Admission: Admission{UnknownPerSecond: 200, Burst: 400},
		WebApp: WebApp{
			Origin: "https://app.phantomrouter.ai",
			Cookie: "phantom_session",
			Scopes: []string{"chat:companion"},
		},
		Keys:      Keys{ForeignFormat: LookUpForeign},
		StartWait: 10 * time.Second,
		Drain:     10 * time.Second,
		Log:       Log{Level: "info"},
	}
}

func (e *Endpoint) setDefaults() { e.Principal = "any" }

// LoadAuthzd reads authzd's configuration from the file, with defaults for what
// it leaves out. The path "" stands for no file at all. The error has one line for
// each mistake, and then there is no configuration.
func LoadAuthzd(path string) (*Authzd, error) { return load[Authzd](path, mistaken) }

// CheckAuthzd returns the mistakes that LoadAuthzd finds, less files that the configuration
// names and that do not exist: where it is checked before it is installed, they need not.
func CheckAuthzd(path string) error { _, err := load[Authzd](path, accepted); return err }

// AuthzdAdmin returns the admin address that a file names, whatever else is
// wrong with it, so that a health check does not fail because of a file that the running
// program has refused to take up. The default stands in for one that cannot be read; the
// error then says why.
func AuthzdAdmin(path string) (Address, error) {
	cfg, err := peek[Authzd](path)
	return cfg.Listen.Admin, err
}
