package config

import (
	"strings"
	"time"
)

// Keyd is the configuration of the key API server.
type Keyd struct {
	// Where the server listens.
	Listen KeydListen `yaml:"listen"`
	// The database: sqlite:///PATH, an absolute path, or, for several keyd at once,
	// postgres://USER@HOST/DATABASE. Several hosts stand as `?host=A,B`: the one that takes writes is
	// used. Give `sslmode=verify-full` where a network is between.
	Store string `yaml:"store" restart:"yes"`
	// File with the password of a postgres:// store, read for each new connection.
	StorePasswordFile File `yaml:"store_password_file" file:"secret" restart:"yes"`
	// Files with the tokens of sidecars, each of 8 characters or more. Any of them is accepted, so
	// that they can be rotated; a token is rejected while its file is missing. Without one only
	// client certificates (`listen.tls.client_ca_file`) let sidecars in.
	SidecarTokenFiles []File `yaml:"sidecar_token_files" file:"token"`
	// The operators. Without one nobody is let in.
	Operators []Operator `yaml:"operators"`
	// How long a sidecar may trust its cache after a poll.
	Lease time.Duration `yaml:"lease" range:"1s..1h"`
	// The catalogue of scopes that keys may carry, at most 256, each name at most 64 characters. Replaces
	// the default. A key carries at most 64 scopes.
	Scopes map[string]Scope `yaml:"scopes"`
	// How far back the change log reaches.
	LogRetention time.Duration `yaml:"log_retention" range:"1s..8760h"`
	// A sidecar that declares a longer `cache.max_stale` is refused.
	LongestMaxStale time.Duration `yaml:"longest_max_stale" range:"0..168h"`
	// Keys neither revoked nor expired that an owner may have. Operators are not bound by it.
	KeysPerAccount int `yaml:"keys_per_account" range:"1..1000000"`
	// Limits of owners' writes, for each account.
	OwnerLimits OwnerLimits `yaml:"owner_limits"`
	// Requests under way may take so long to end when the program stops.
	Drain time.Duration `yaml:"drain" range:"100ms..10m"`
	// What is logged.
	Log Log `yaml:"log"`
}

// KeydListen is where keyd listens.
type KeydListen struct {
	// Address for sidecars: resolve and changes.
	Sidecars Address `yaml:"sidecars" restart:"yes"`
	// Address for operators.
	Operators Address `yaml:"operators" restart:"yes"`
	// Address for owners. It believes the x-phantom-* headers, so only Envoy may reach it:
	// by a Unix socket, or with `listen.tls.client_ca_file`. Without either it must be loopback.
	Owners Address `yaml:"owners" restart:"yes"`
	// Address of `/livez`, `/readyz`, `/metrics` and `/debug/pprof/`, always without TLS.
	Admin Address `yaml:"admin" restart:"yes"`
	// TLS of the addresses for sidecars, operators and owners that are tcp://. Files
	// that change are read anew without a restart.
	TLS *ServerTLS `yaml:"tls" restart:"yes"`
	// Names accepted in client certificates, for each listener. Needs `listen.tls.client_ca_file`.
	ClientNames *ClientNames `yaml:"client_names"`
}

// ClientNames are the subject alternative names (DNS or URI) of client certificates that
// each listener accepts. A list that is absent accepts every name.
type ClientNames struct {
	// Names that sidecars' certificates may have.
	Sidecars []string `yaml:"sidecars,omitempty"`
	// Names that operators' certificates may have.
	Operators []string `yaml:"operators,omitempty"`
	// Names that the certificates of Envoys may have, which speak for owners.
	Owners []string `yaml:"owners,omitempty"`
}

// OwnerLimits bounds owners' writes, for each account. Requests beyond a limit get 429.
type OwnerLimits struct {
	// Writes per minute in the long run. Refused ones count too.
	ChangesPerMinute int `yaml:"changes_per_minute" range:"1..1000000"`
	// Writes in a row after a pause.
	Burst int `yaml:"burst" range:"1..1000000"`
	// Writes in flight. One that only waits for its change to become effective does not count.
	Concurrent int `yaml:"concurrent" range:"1..100000"`
}

// Operator is one person or program that administers keys.
type Operator struct {
	// Name that the audit shows: letters, digits, `.`, `_`, `@` and `-`.
	Name string `yaml:"name" required:"yes"`
	// File with the operator's token: 8 characters or more, and nobody else's. The token is
	// rejected while the file is missing.
	TokenFile File `yaml:"token_file" required:"yes" file:"token"`
}

// Who may grant a scope.
const (
	ByOperator = "operator"
	ByOwner    = "owner"
)

// Scope is one entry of the catalogue.
type Scope struct {
	// Who may grant it: operators alone, or owners too.
	GrantedBy string `yaml:"granted_by" required:"yes" oneof:"operator|owner"`
}

func (k *Keyd) setDefaults() {
	*k = Keyd{
		Listen: KeydListen{
			Sidecars:  TCP("127.0.0.1:8080"),
			Operators: TCP("127.0.0.1:8081"),
			Owners:    Unix("/run/phantom/owners.sock"),
			Admin:     TCP("127.0.0.1:8082"),
		},
		Store:           "sqlite:///var/lib/phantom/keys.db",
		Lease:           15 * time.Second,
		Scopes:          map[string]Scope{"chat:companion": {GrantedBy: ByOperator}},
		LogRetention:    time.Hour,
		LongestMaxStale: time.Hour,
		KeysPerAccount:  100,
		OwnerLimits:     OwnerLimits{ChangesPerMinute: 60, Burst: 20, Concurrent: 4},
		Drain:           10 * time.Second,
		Log:             Log{Level: "info"},
	}
}

const sqlitePrefix = "sqlite://"

// SQLitePath returns the absolute path of the SQLite database that the store names.
func (k *Keyd) SQLitePath() string { return strings.TrimPrefix(k.Store, sqlitePrefix) }

// OnPostgres tells whether the store is PostgreSQL; then Store is its URL.
func (k *Keyd) OnPostgres() bool {
	return strings.HasPrefix(k.Store, "postgres://") || strings.HasPrefix(k.Store, "postgresql://")
}

// LoadKeyd reads keyd's configuration as LoadAuthzd does authzd's. The path "" gives the defaults.
func LoadKeyd(path string) (*Keyd, error) { return load[Keyd](path, mistaken) }

// CheckKeyd checks keyd's configuration as CheckAuthzd does authzd's.
func CheckKeyd(path string) error { _, err := load[Keyd](path, accepted); return err }

// KeydAdmin returns the admin address that a file names, as AuthzdAdmin does.
func KeydAdmin(path string) (Address, error) {
	cfg, err := peek[Keyd](path)
	return cfg.Listen.Admin, err
}
