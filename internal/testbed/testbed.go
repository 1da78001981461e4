package testbed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// Config is a configuration, or fields that replace those of the testbed's configuration.
type Config = map[string]any

// Testbed is a folder with the configuration, store and sockets of one keyd, and of sidecars that use it.
type Testbed struct {
	Stack
	Operators *operatorapi.Client // of keyd; the first StartKeyd sets it
	Canaries  *Canaries           // every secret that the programs receive
	// Wrapper is a command with arguments that runs the programs started from now on, such as taskset or nice. It must
	// exec the program.
	Wrapper []string

	bin     string
	run     string         // folder of the sockets and the database
	started map[string]int // processes by their name
}

// Run builds programs and runs do with a testbed of them, which it closes afterwards.
func Run(ctx context.Context, do func(*Testbed) error, programs ...string) (err error) {
	bin, err := os.MkdirTemp("", "programs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(bin)) }()
	if err := Build(ctx, bin, programs...); err != nil {
		return err
	}
	tb, err := New(bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tb.Close(ctx)) }()
	return do(tb)
}

const (
	sidecarToken  = "key-api.token"
	operatorToken = "operator.token"
)

// New returns a testbed in a temporary folder. Its programs are in the folder bin.
func New(bin string) (*Testbed, error) {
	dir, err := os.MkdirTemp("", "tb") // a short name, since the path of a Unix socket is limited to about 104 bytes
	if err != nil {
		return nil, err
	}
	return At(bin, dir, dir)
}

// At returns a testbed in the folder dir, with its sockets and its database in the folder run.
func At(bin, dir, run string) (*Testbed, error) {
	tb := &Testbed{Stack: Stack{Dir: dir}, bin: bin, run: run, started: map[string]int{}, Canaries: NewCanaries()}
	for _, name := range []string{sidecarToken, operatorToken} {
		token := credential.RandomBase62(48)
		tb.Canaries.Add(token)
		if err := os.WriteFile(tb.File(name), []byte(token), 0o600); err != nil {
			return nil, err
		}
	}
	return tb, nil
}

func (tb *Testbed) token(name string) (credential.Secret, error) {
	text, err := os.ReadFile(tb.File(name))
	return credential.NewSecret(string(text)), err
}

// SidecarToken returns the token that sidecars present to keyd.
func (tb *Testbed) SidecarToken() (credential.Secret, error) { return tb.token(sidecarToken) }

// File returns the path of a file: a token, a configuration or a log.
func (tb *Testbed) File(name string) string { return filepath.Join(tb.Dir, name) }

// Socket returns the path of a socket: sidecars, operators and owners are keyd's, others are the checks of the sidecar
// of that name.
func (tb *Testbed) Socket(name string) string { return filepath.Join(tb.run, name+".sock") }

// StartKeyd starts keyd and waits until it has started. The fields of changes replace those of the usual configuration.
func (tb *Testbed) StartKeyd(ctx context.Context, changes Config) (*Process, error) {
	config := Config{
		"listen": Config{
			"sidecars": "unix://" + tb.Socket("sidecars"), "operators": "unix://" + tb.Socket("operators"),
			"owners": "unix://" + tb.Socket("owners"), "admin": "tcp://127.0.0.1:0",
		},
		"store":               "sqlite://" + filepath.Join(tb.run, "keys.db"),
		"sidecar_token_files": []string{sidecarToken},
		"operators":           []Config{{"name": "operator", "token_file": operatorToken}},
		"log":                 Config{"level": "debug"},
	}
	p, err := tb.startProgram(ctx, "keyd", "keyd", config, changes)
	if err != nil || tb.Operators != nil {
		return p, err
	}
	url := "http://" + p.Addresses["listen.operators"]
	if strings.HasPrefix(p.Addresses["listen.operators"], "/") {
		url = "unix://" + p.Addresses["listen.operators"]
	}
	tb.Operators, err = operatorapi.New(url, func() (credential.Secret, error) { return tb.token(operatorToken) })
	return p, err
}

// StartAuthzd starts a sidecar of that name and waits until it has started. Its checks are at the socket of its name. The
// fields of changes replace those of the usual configuration.
func (tb *Testbed) StartAuthzd(ctx context.Context, name string, changes Config) (*Process, error) {
	config := tb.ModuleConfig(nil)
	config["listen"].(Config)["check"] = []string{"unix://" + tb.Socket(name)}
	return tb.startProgram(ctx, "authzd", name, config, changes)
}

// ModuleConfig returns the filter_config of an Envoy with the module that uses the testbed's keyd. The fields of changes
// replace those of the usual configuration.
func (tb *Testbed) ModuleConfig(changes Config) Config {
	config := Config{
		"listen":  Config{"admin": "tcp://127.0.0.1:0"},
		"key_api": Config{"url": "unix://" + tb.Socket("sidecars"), "token_file": tb.File(sidecarToken)},
		"log":     Config{"level": "debug"},
	}
	maps.Copy(config, changes)
	return config
}

func (tb *Testbed) startProgram(ctx context.Context, program, name string, config, changes Config) (*Process, error) {
	maps.Copy(config, changes)
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, err
	}
	file := tb.File(name + ".yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	p, err := tb.Start(tb.unique(name), tb.Command(context.Background(), program, "-config", file))
	if err != nil {
		return nil, err
	}
	return p, p.AwaitStarted(ctx)
}

// unique returns the name of a process and of its log: NAME, then NAME.2 and so on.
func (tb *Testbed) unique(name string) string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.started[name]++
	if n := tb.started[name]; n > 1 {
		return fmt.Sprintf("%s.%d", name, n)
	}
	return name
}

// Command returns a command for a program in the testbed's folder of programs.
func (tb *Testbed) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	args = slices.Concat(tb.Wrapper, []string{filepath.Join(tb.bin, program)}, args)
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

// Close searches what the programs show and have written for canaries, stops the programs and removes the folder. The
// error names every secret that was found.
func (tb *Testbed) Close(ctx context.Context) error {
	var errs []error
	for _, p := range tb.Processes() {
		if p.Addresses["listen.admin"] != "" && !p.HasExited() {
			errs = append(errs, p.Signal(syscall.SIGCONT), tb.SearchPages(ctx, p)) // a test that failed may have stopped it
		}
	}
	tb.Stop(Patience)
	if tb.Operators != nil {
		tb.Operators.Close()
	}
	return errors.Join(append(errs, tb.searchFiles(), os.RemoveAll(tb.Dir))...)
}
