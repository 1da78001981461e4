package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Keyd is the configuration of the key API server.
type Keyd struct {
	// Listeners.
	Listen KeydListen `yaml:"listen"`
	// Database: sqlite:///PATH with an absolute path, or postgres://USER@HOST/DATABASE for several
	// replicas of keyd. Several hosts are written as `?host=A,B`; keyd uses the one that accepts
	// writes. Set `sslmode=verify-full` if the connection crosses a network.
	Store string `yaml:"store" restart:"yes"`
	// File with the password of a postgres:// store, read for each new connection.
	StorePasswordFile File `yaml:"store_password_file,omitempty" file:"secret" restart:"yes"`
	// Files with the tokens of sidecars, each of at least 8 characters. Any of them is accepted, so
	// that they can be rotated. A token is rejected while its file is missing. Without a token,
	// sidecars need a client certificate (`listen.tls.client_ca_file`).
	SidecarTokenFiles []File `yaml:"sidecar_token_files,flow" file:"token"`
	// Operators. Without one, all operator requests are rejected.
	Operators []Operator `yaml:"operators"`
	// Time for which a sidecar may use its cache after a poll.
	Lease Duration `yaml:"lease" range:"1s..1h"`
	// Catalogue of the scopes that keys may carry: at most 256, each name at most 64 characters. It
	// replaces the default. A key carries at most 64 scopes.
	Scopes map[string]Scope `yaml:"scopes"`
	// Age of the oldest entries of the change log.
	LogRetention Duration `yaml:"log_retention" range:"1s..8760h"`
	// Longest `cache.max_stale` that a sidecar may declare.
	LongestMaxStale Duration `yaml:"longest_max_stale" range:"0..168h"`
	// Number of keys in force that owners may mint for an account. Operators are not limited.
	KeysPerAccount int `yaml:"keys_per_account" range:"1..1000000"`
	// Limits of owners' writes, for each account.
	OwnerLimits OwnerLimits `yaml:"owner_limits"`
	// Time limit of the drain, in which requests in flight end.
	Drain Duration `yaml:"drain" range:"100ms..10m"`
	// Log.
	Log Log `yaml:"log"`
	// OpenTelemetry traces, which continue sampled traces of the caller. Without the field there are
	// none.
	Tracing *Tracing `yaml:"tracing,omitempty" restart:"yes"`
}

// KeydListen has the listeners of keyd.
type KeydListen struct {
	// Address for sidecars: resolve and changes.
	Sidecars Address `yaml:"sidecars" restart:"yes"`
	// Address for operators.
	Operators Address `yaml:"operators" restart:"yes"`
	// Address for owners. It trusts the x-phantom-* headers, so only Envoy may reach it: by a Unix
	// socket, or with `listen.tls.client_ca_file`. Without either it must be a loopback address.
	Owners Address `yaml:"owners" restart:"yes"`
	// Address of `/livez`, `/readyz`, `/metrics` and `/debug/pprof/`, always without TLS.
	Admin Address `yaml:"admin" restart:"yes"`
	// TLS of the tcp:// addresses for sidecars, operators and owners. Changed files are read again
	// without a restart.
	TLS *ServerTLS `yaml:"tls,omitempty" restart:"yes"`
	// Names accepted in client certificates, for each listener. Requires `listen.tls.client_ca_file`.
	ClientNames *ClientNames `yaml:"client_names,omitempty"`
}

// ClientNames has the subject alternative names (DNS or URI) of client certificates that each
// listener accepts. An absent list accepts every name.
type ClientNames struct {
	// Names accepted in certificates of sidecars.
	Sidecars []string `yaml:"sidecars,omitempty,flow"`
	// Names accepted in certificates of operators.
	Operators []string `yaml:"operators,omitempty,flow"`
	// Names accepted in certificates of Envoy, which sends the requests of owners.
	Owners []string `yaml:"owners,omitempty,flow"`
}

// OwnerLimits limits owners' writes, for each account. Requests over a limit are answered with 429.
type OwnerLimits struct {
	// Writes per minute in the long run. Refused ones count too.
	ChangesPerMinute int `yaml:"changes_per_minute" range:"1..1000000"`
	// Writes in a burst.
	Burst int `yaml:"burst" range:"1..1000000"`
	// Writes in flight. A request that waits for its change to become effective does not count.
	Concurrent int `yaml:"concurrent" range:"1..100000"`
}

// Operator is a person or program that administers keys.
type Operator struct {
	// Name in the audit: letters, digits, `.`, `_`, `@` and `-`.
	Name string `yaml:"name" required:"yes"`
	// File with the operator's own token of at least 8 characters. The token is rejected while the
	// file is missing.
	TokenFile File `yaml:"token_file" required:"yes" file:"token"`
}

// Values of Scope.GrantedBy.
const (
	ByOperator = "operator"
	ByOwner    = "owner"
)

// Scope is one entry of the catalogue.
type Scope struct {
	// Who may grant the scope: only operators, or owners too.
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
		Lease:           Duration{15 * time.Second},
		Scopes:          map[string]Scope{"chat:companion": {GrantedBy: ByOperator}},
		LogRetention:    Duration{time.Hour},
		LongestMaxStale: Duration{time.Hour},
		KeysPerAccount:  100,
		OwnerLimits:     OwnerLimits{ChangesPerMinute: 60, Burst: 20, Concurrent: 4},
		Drain:           Duration{10 * time.Second},
		Log:             Log{Level: "info"},
	}
}

const sqlitePrefix = "sqlite://"

// SQLitePath returns the absolute path of the SQLite database that the store names.
func (k *Keyd) SQLitePath() string { return strings.TrimPrefix(k.Store, sqlitePrefix) }

// OnPostgres reports whether the store is PostgreSQL. Store is then its URL.
func (k *Keyd) OnPostgres() bool {
	return strings.HasPrefix(k.Store, "postgres://") || strings.HasPrefix(k.Store, "postgresql://")
}

// LoadKeyd loads the configuration of keyd as LoadAuthzd does that of authzd.
func LoadKeyd(path string) (*Keyd, error) { return load[Keyd](path, allFiles) }

// CheckKeyd checks the configuration of keyd as CheckAuthzd does that of authzd.
func CheckKeyd(path string) error { _, err := load[Keyd](path, existingFiles); return err }

// KeydAdmin returns the admin address in a file as AuthzdAdmin does.
func KeydAdmin(path string) (Address, error) {
	cfg, err := loadListen[Keyd](path)
	return cfg.Listen.Admin, err
}

func (k *Keyd) validate(r *report) {
	l := &k.Listen
	secured := []listener{
		{"listen.sidecars", l.Sidecars},
		{"listen.operators", l.Operators},
		{"listen.owners", l.Owners},
	}
	r.addresses(append(slices.Clone(secured), listener{"listen.admin", l.Admin}), secured, l.TLS)
	if k.OwnersOpen() && !l.Owners.isLoopback() {
		r.invalid("listen.owners", "must be unix:///PATH, a loopback address, or be used with listen.tls.client_ca_file")
	}
	k.validateClientNames(r)
	k.validateStore(r)
	k.validateOperators(r)
	k.validateScopes(r)
	k.Tracing.validate(r)
}

// maxCatalogue is the number of scopes in the catalogue. Larger makes the messages that list it
// unreadable; smaller rejects catalogues in use.
const maxCatalogue = 256

func (k *Keyd) validateScopes(r *report) {
	if len(k.Scopes) > maxCatalogue {
		r.invalid("scopes", fmt.Sprintf("must have at most %d scopes", maxCatalogue))
	}
	for name := range k.Scopes {
		if !credential.ValidScope(name) {
			r.invalid(entry("scopes", name), "must be a scope: "+scopeForm)
		}
	}
}

// OwnersOpen reports whether every client that reaches the owners' address is trusted as Envoy:
// it is not a Unix socket, and no client certificate is required.
func (k *Keyd) OwnersOpen() bool {
	return k.Listen.Owners.Network() == "tcp" && (k.Listen.TLS == nil || k.Listen.TLS.ClientCAFile == "")
}

// validateClientNames reports names that no certificate can have, and lists that are never used.
// An empty list is refused because an absent one accepts every name.
func (k *Keyd) validateClientNames(r *report) {
	const field = "listen.client_names"
	names := k.Listen.ClientNames
	if names == nil {
		return
	}
	if k.Listen.TLS == nil || k.Listen.TLS.ClientCAFile == "" && !r.hasMistake("listen.tls.client_ca_file") {
		r.invalid(field, "must be used with listen.tls.client_ca_file")
	}
	for name, list := range map[string][]string{
		field + ".sidecars": names.Sidecars, field + ".operators": names.Operators, field + ".owners": names.Owners,
	} {
		r.notEmpty(name, list, "must have at least one name; without the field, every name is accepted")
		r.unique(name, list, isClientName, "must be a DNS name or URI of client certificates")
	}
}

// isClientName reports whether a certificate can have the name as a DNS name or a URI.
func isClientName(name string) bool {
	u, err := url.Parse(name)
	return isHost(name) && net.ParseIP(name) == nil || err == nil && u.IsAbs() && (u.Host != "" || u.Scheme == "urn")
}

const (
	sqliteForm   = "sqlite:///PATH"
	postgresForm = "postgres://USER@HOST/DATABASE"
)

func (k *Keyd) validateStore(r *report) {
	engine, rest, _ := strings.Cut(k.Store, "://")
	switch engine {
	case "sqlite":
		if !isCleanPath(rest) || strings.ContainsAny(rest, "?#%") {
			r.invalid("store", "must be "+sqliteForm+" with an absolute path")
		}
		if r.given("store_password_file") {
			r.invalid("store_password_file", "must be used with a postgres:// store")
		}
	case "postgres", "postgresql":
		if holdsPassword(k.Store) {
			r.invalid("store", "must not hold a password: use store_password_file")
		} else if u, err := url.Parse(k.Store); err != nil || strings.Trim(u.Path, "/") == "" {
			r.invalid("store", "must be "+postgresForm)
		}
	default:
		r.invalid("store", "must be "+sqliteForm+" or "+postgresForm)
	}
}

// holdsPassword reports whether a connection URL holds a password.
func holdsPassword(store string) bool {
	u, err := url.Parse(store)
	if err != nil {
		return strings.Contains(store, "@")
	}
	_, inUser := u.User.Password()
	for name := range u.Query() {
		inUser = inUser || strings.Contains(strings.ToLower(name), "password")
	}
	return inUser
}

const operatorCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-"

func (k *Keyd) validateOperators(r *report) {
	first := map[string]bool{}
	for i, o := range k.Operators {
		field := element("operators", i) + ".name"
		switch {
		case o.Name == "": // a mistake already
		case len(o.Name) > 64 || strings.Trim(o.Name, operatorCharacters) != "":
			r.invalid(field, "must be 1 to 64 letters, digits and any of ._@-")
		case first[o.Name]:
			r.invalid(field, "must not be repeated")
		}
		first[o.Name] = true
	}
}
