package testbed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// Config is a configuration, or the part of one that differs from the site's usual.
type Config = map[string]any

// Site is a folder with one keyd's store, its sockets, and sidecars beside it.
type Site struct {
	Dir       string
	Operators *operatorapi.Client // of the site's keyd, whichever process that is
	Canaries  *Canaries           // every secret that the site's programs are given
	// Through is a command with arguments that programs are started through from now
	// on, such as taskset or nice: it ends by becoming the program.
	Through []string

	bin       string
	mu        sync.Mutex
	launched  int
	processes []*Process
}

// Build builds programs of this module, named by their folders, into one folder.
func Build(ctx context.Context, into string, programs ...string) error {
	args := []string{"build", "-o", into + string(filepath.Separator)}
	for _, name := range programs {
		args = append(args, "github.com/phantomrouter/phantom-authz/"+name)
	}
	if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// In runs do in a site of the programs, which it builds, and removes all of it.
func In(ctx context.Context, do func(*Site) error, programs ...string) (err error) {
	bin, err := os.MkdirTemp("", "programs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(bin)) }()
	if err := Build(ctx, bin, programs...); err != nil {
		return err
	}
	site, err := NewSite(bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close(ctx)) }()
	return do(site)
}

// tokens of the site, by file.
const (
	sidecarToken  = "key-api.token"
	operatorToken = "operator.token"
)

// NewSite makes a site in a folder of its own; the programs are in bin.
func NewSite(bin string) (*Site, error) {
	// A short name: the path of a Unix socket has little room.
	dir, err := os.MkdirTemp("", "site")
	if err != nil {
		return nil, err
	}
	s := &Site{Dir: dir, bin: bin, Canaries: NewCanaries()}
	for _, name := range []string{sidecarToken, operatorToken} {
		token := "canary-" + credential.RandomBase62(40)
		s.Canaries.Add(token)
		if err := os.WriteFile(s.file(name), []byte(token), 0o600); err != nil {
			return nil, err
		}
	}
	s.Operators, err = operatorapi.New(s.socket("operators"), s.operatorToken)
	return s, err
}

func (s *Site) operatorToken() (credential.Secret, error) {
	text, err := os.ReadFile(s.file(operatorToken))
	return credential.NewSecret(string(text)), err
}

// SidecarToken returns the token that keyd's side for sidecars asks for.
func (s *Site) SidecarToken() (credential.Secret, error) {
	text, err := os.ReadFile(s.file(sidecarToken))
	return credential.NewSecret(string(text)), err
}

func (s *Site) file(name string) string   { return filepath.Join(s.Dir, name) }
func (s *Site) socket(name string) string { return "unix://" + s.Socket(name) }

// Socket is the path of the socket of that name: a sidecar's is called as itself.
func (s *Site) Socket(name string) string { return s.file(name + ".sock") }

// SidecarSide is the path of the socket of keyd's side for sidecars.
func (s *Site) SidecarSide() string { return s.Socket("sidecars") }

func (s *Site) write(name string, config Config) (string, error) {
	text, err := yaml.Marshal(config)
	if err != nil {
		return "", err
	}
	file := s.file(name + ".yaml")
	return file, os.WriteFile(file, text, 0o600)
}

// StartKeyd starts the site's keyd. What differs names stands in its configuration
// instead of the usual.
func (s *Site) StartKeyd(ctx context.Context, differs Config) (*Process, error) {
	config := Config{
		"listen": Config{
			"sidecars": s.socket("sidecars"), "operators": s.socket("operators"),
			"owners": s.socket("owners"), "admin": "tcp://127.0.0.1:0",
		},
		"store":               "sqlite://" + s.file("keys.db"),
		"sidecar_token_files": []string{sidecarToken},
		"operators":           []Config{{"name": "tests", "token_file": operatorToken}},
		"log":                 Config{"level": "debug"},
	}
	maps.Copy(config, differs)
	return s.launch(ctx, "keyd", "keyd", config)
}

// StartAuthzd starts a sidecar of that name, whose checks are at its socket. What
// differs names stands in its configuration instead of the usual.
func (s *Site) StartAuthzd(ctx context.Context, name string, differs Config) (*Process, error) {
	config := Config{
		"listen":  Config{"check": []string{s.socket(name)}, "admin": "tcp://127.0.0.1:0"},
		"key_api": Config{"url": s.socket("sidecars"), "token_file": sidecarToken},
		"log":     Config{"level": "debug"},
	}
	maps.Copy(config, differs)
	return s.launch(ctx, "authzd", name, config)
}

// Close searches all that the programs show and have written for the site's
// canaries, stops what still runs, and removes the folder. The error tells of every
// secret that was found.
func (s *Site) Close(ctx context.Context) error {
	s.mu.Lock()
	processes := s.processes
	s.mu.Unlock()
	var errs []error
	for _, p := range processes {
		if !p.HasEnded() {
			errs = append(errs, p.Signal(syscall.SIGCONT), s.SearchLive(ctx, p)) // a test that failed may have frozen it
		}
	}
	for i := len(processes) - 1; i >= 0; i-- {
		if !processes[i].HasEnded() {
			processes[i].stop()
		}
	}
	s.Operators.Close()
	return errors.Join(append(errs, s.searchFiles(), os.RemoveAll(s.Dir))...)
}
