package envoy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// world is what all tests share: keyd, authzd and the echo upstream, each a real
// process, and one Envoy of each version in front of them.
type world struct {
	dir       string // sockets, files, logs
	sidecars  string // keyd's address for sidecars
	echo      string
	operators *operatorapi.Client
	held      credentials
	fronts    []*front // newest first

	mu    sync.Mutex
	procs []*process
}

// credentials are known to keyd, with the ids that it gave them.
type credentials struct {
	account, plainID, chatID, sessionID string

	plain, chat, revoked, expired, terminated, unknown, session, endedSession string
}

type mapping map[string]any

var theWorld struct {
	once sync.Once
	*world
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if w := theWorld.world; w != nil {
		w.stop()
		_ = os.RemoveAll(w.dir)
	}
	os.Exit(code)
}

// shared returns the world, which the first test that asks for it makes.
func shared(t *testing.T) *world {
	t.Helper()
	theWorld.once.Do(func() { theWorld.world, theWorld.err = newWorld() })
	if theWorld.err != nil {
		t.Fatal(theWorld.err)
	}
	return theWorld.world
}

// onEachVersion runs a test behind an Envoy of every version.
func onEachVersion(t *testing.T, test func(t *testing.T, f *front)) {
	for _, f := range shared(t).fronts {
		t.Run(f.version, func(t *testing.T) { test(t, f) })
	}
}

func newWorld() (*world, error) {
	// A short name: the path of a Unix socket has little room.
	dir, err := os.MkdirTemp("", "envoytest")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir}
	if err := w.begin(); err != nil {
		w.stop()
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return w, nil
}

func (w *world) begin() error {
	if err := build(w.dir, "keyd", "authzd", "echo"); err != nil {
		return err
	}
	for _, name := range []string{"key-api.token", "operator.token"} {
		if err := os.WriteFile(w.file(name), []byte("token-for-tests-"+name), 0o600); err != nil {
			return err
		}
	}
	if err := w.startKeyd(); err != nil {
		return err
	}
	if err := w.seed(context.Background()); err != nil {
		return err
	}
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	w.echo = ports[0]
	echo, err := w.run("echo", w.file("echo"), "-listen", w.echo)
	if err != nil {
		return err
	}
	if err := echo.until(func() error { return get200("http://" + w.echo) }); err != nil {
		return err
	}
	if _, err := w.startAuthzd("authzd", "authz.sock", mapping{}); err != nil {
		return err
	}
	for _, version := range versions() {
		f, err := w.startEnvoy("envoy-"+version, version, envoy.Addresses{})
		if err != nil {
			return err
		}
		w.fronts = append(w.fronts, f)
	}
	return nil
}

// versions are those to test: all, or the user's own.
func versions() []string {
	if os.Getenv("ENVOY") != "" {
		return []string{"ENVOY"}
	}
	return envoy.Versions()
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

func (w *world) run(name, path string, args ...string) (*process, error) {
	p, err := startProcess(w.dir, name, path, args...)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.procs = append(w.procs, p)
	return p, nil
}

func (w *world) stop() {
	if w.operators != nil {
		w.operators.Close()
	}
	for i := len(w.procs) - 1; i >= 0; i-- {
		w.procs[i].stop()
	}
}

func (w *world) write(name string, content mapping) error {
	text, err := yaml.Marshal(content)
	if err != nil {
		return err
	}
	return os.WriteFile(w.file(name), text, 0o600)
}

func (w *world) startKeyd() error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	w.sidecars = ports[0]
	err = w.write("keyd.yaml", mapping{
		"listen": mapping{
			"sidecars": "tcp://" + ports[0], "operators": "tcp://" + ports[1],
			"owners": "unix://" + w.file("owners.sock"), "admin": "tcp://" + ports[2],
		},
		"store":               "sqlite://" + w.file("keys.db"),
		"sidecar_token_files": []string{"key-api.token"},
		"operators":           []mapping{{"name": "tests", "token_file": "operator.token"}},
		"drain":               "1s",
	})
	if err != nil {
		return err
	}
	keyd, err := w.run("keyd", w.file("keyd"), "-config", w.file("keyd.yaml"))
	if err != nil {
		return err
	}
	w.operators, err = operatorapi.New("http://"+ports[1], func() (credential.Secret, error) {
		return credential.NewSecret("token-for-tests-operator.token"), nil
	})
	return errors.Join(err, keyd.until(func() error { return get200("http://" + ports[2] + "/readyz") }))
}

// startAuthzd starts a sidecar on a socket and waits until it takes checks. What
// settings names stands in its configuration instead of the usual.
func (w *world) startAuthzd(name, socket string, settings mapping) (*process, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	config := mapping{
		"listen":     mapping{"check": []string{"unix://" + w.file(socket)}, "admin": "tcp://" + ports[0]},
		"key_api":    mapping{"url": "http://" + w.sidecars, "token_file": "key-api.token"},
		"endpoints":  []mapping{{"path": keyOnly, "principal": "key"}},
		"start_wait": "100ms",
		"drain":      "2s",
	}
	maps.Copy(config, settings)
	if err := w.write(name+".yaml", config); err != nil {
		return nil, err
	}
	p, err := w.run(name, w.file("authzd"), "-config", w.file(name+".yaml"))
	if err != nil {
		return nil, err
	}
	// Of itself, and not of a predecessor on the same socket.
	return p, p.until(func() error {
		return errors.Join(get200("http://"+ports[0]+"/readyz"), dialUnix(w.file(socket)))
	})
}

// ownAuthzd is startAuthzd for one test; the processes on one socket need names.
func (w *world) ownAuthzd(t *testing.T, name, socket string, settings mapping) *process {
	t.Helper()
	p, err := w.startAuthzd(name, socket, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

// keyOnly is an endpoint of the sidecar's own table: envoy.yaml has none that only
// keys may use, and asks for nothing there.
const keyOnly = "/key-only"

func (w *world) seed(ctx context.Context) error {
	var failed error
	do := func(r operatorapi.Request) operatorapi.Answer {
		answer, err := w.operators.Do(ctx, r)
		if err != nil {
			failed = errors.Join(failed, err)
			answer.Account, answer.Key, answer.Session = &operatorapi.Account{}, &operatorapi.Key{}, &operatorapi.Session{}
		}
		return answer
	}
	mint := func(account string, k operatorapi.NewKey) (id, plaintext string) {
		k.Label = "test"
		answer := do(operatorapi.MintKey(account, k))
		return answer.Key.ID, answer.Plaintext.Reveal()
	}
	c := &w.held
	c.account = do(operatorapi.CreateAccount("acc_tests", "Tests")).Account.ID
	_, c.expired = mint(c.account, operatorapi.NewKey{ExpiresAt: time.Now().Add(time.Second)})
	c.plainID, c.plain = mint(c.account, operatorapi.NewKey{})
	c.chatID, c.chat = mint(c.account, operatorapi.NewKey{Scopes: []string{"chat:companion"}})
	revoked, plaintext := mint(c.account, operatorapi.NewKey{Scopes: []string{"chat:companion"}})
	c.revoked = plaintext
	do(operatorapi.RevokeKey(revoked))
	gone := do(operatorapi.CreateAccount("", "Gone")).Account.ID
	_, c.terminated = mint(gone, operatorapi.NewKey{Scopes: []string{"chat:companion"}})
	do(operatorapi.TerminateAccount(gone))
	session := do(operatorapi.MintSession(c.account, 0))
	c.sessionID, c.session = session.Session.ID, session.Token.Reveal()
	ended := do(operatorapi.MintSession(c.account, 0))
	c.endedSession = ended.Token.Reveal()
	do(operatorapi.EndSession(ended.Session.ID))
	c.unknown = credential.Mint(credential.Key).Reveal()
	if failed != nil {
		return fmt.Errorf("seed: %w", failed)
	}
	return nil
}
