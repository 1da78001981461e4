// Package pgtest runs PostgreSQL servers for tests, on a Unix socket and a loopback port, in a temporary directory, and as
// another user if the tests run as root. A server does not sync its disk, because only a crash of the machine would lose
// what is not synced; a benchmark passes the setting fsync=on.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Password is the password of the role postgres on the loopback port. The socket needs none.
const Password = "canary-database-password"

// Server is one server.
type Server struct {
	Dir  string // of its sockets
	Port int

	bin      string // directory of PostgreSQL's programs
	who      *syscall.Credential
	settings []string
	process  *exec.Cmd
	exited   chan struct{}
}

// Start makes a new server and starts it. Settings are NAME=VALUE. If PostgreSQL is missing, root installs Debian's package.
func Start(ctx context.Context, settings ...string) (*Server, error) {
	bin, err := programs(ctx)
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, settings: settings}
	if err := s.place(); err != nil {
		return nil, err
	}
	secret := filepath.Join(s.Dir, "password")
	if err := os.WriteFile(secret, []byte(Password), 0o644); err != nil {
		return nil, err
	}
	err = s.run(ctx, "initdb", "-D", s.data(), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync",
		"--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile="+secret)
	if err == nil {
		err = s.Run(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

// programs returns the directory of PostgreSQL's programs, and installs them if there are none.
func programs(ctx context.Context) (string, error) {
	if installed() == "" {
		if err := install(ctx, "postgresql"); err != nil {
			return "", err
		}
	}
	if bin := installed(); bin != "" {
		return bin, nil
	}
	return "", errors.New("the package postgresql has no server in its usual directory")
}

// install installs a package of Debian.
func install(ctx context.Context, name string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("package %s is missing: apt-get install %s", name, name)
	}
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", name}} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("install %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// installed returns the directory of the newest version, "" if there is none.
func installed() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			found = append(found, path)
		}
	}
	for _, path := range found {
		dir := filepath.Dir(path)
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir
		}
	}
	return ""
}

func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// place makes the directory and chooses a port.
func (s *Server) place() (err error) {
	if s.who, err = unprivileged(); err != nil {
		return err
	}
	if s.Dir, err = os.MkdirTemp("", "pg"); err != nil { // short: a socket's path is at most 107 bytes
		return err
	}
	if s.who != nil {
		if err := os.Chown(s.Dir, int(s.who.Uid), int(s.who.Gid)); err != nil {
			return err
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Port = ln.Addr().(*net.TCPAddr).Port
	return ln.Close()
}

// unprivileged returns another user for root, because PostgreSQL refuses to run as root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.Atoi(u.Uid)
		gid, errGID := strconv.Atoi(u.Gid)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(errUID, errGID)
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

func (s *Server) data() string { return filepath.Join(s.Dir, "data") }

func (s *Server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.who}
	return cmd
}

func (s *Server) run(ctx context.Context, program string, args ...string) error {
	if out, err := s.command(ctx, filepath.Join(s.bin, program), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

// Run starts the server, for the first time or again, and waits until it answers.
func (s *Server) Run(ctx context.Context) error {
	args := []string{"-D", s.data(), "-k", s.Dir, "-p", strconv.Itoa(s.Port), "-h", "127.0.0.1"}
	for _, setting := range slices.Concat([]string{"max_connections=200", "shared_buffers=32MB", "fsync=off"}, s.settings) {
		args = append(args, "-c", setting)
	}
	return s.start(ctx, filepath.Join(s.bin, "postgres"), args...)
}

// start starts a program, which ends with this process, and waits until it takes connections.
func (s *Server) start(ctx context.Context, program string, args ...string) error {
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := s.command(context.WithoutCancel(ctx), program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.process, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	return s.await(ctx)
}

// await waits until the server takes connections.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		c, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return c.Close(ctx)
		}
		select {
		case <-s.exited:
			return fmt.Errorf("postgres exited: %s", s.Log())
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// Stop ends the server by a signal, and waits for its exit. SIGINT shuts it down; SIGQUIT ends it as a crash does.
func (s *Server) Stop(sig syscall.Signal) error {
	err := s.process.Process.Signal(sig)
	<-s.exited
	return err
}

// Remove ends the server and deletes its directory.
func (s *Server) Remove() error {
	if s.process != nil {
		_ = s.Stop(syscall.SIGQUIT) // it may have exited
	}
	return os.RemoveAll(s.Dir)
}

// URL is the URL of a database on the Unix socket.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%d", database, s.Dir, s.Port)
}

// LoopbackURL is the URL of a database on the loopback port, which needs the password.
func (s *Server) LoopbackURL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.Port, database)
}

var made atomic.Int64 // databases and schemas

// Database makes an empty database and returns its name.
func (s *Server) Database(ctx context.Context) (string, error) {
	name := fmt.Sprintf("keys_%d_%d", os.Getpid(), made.Add(1))
	return name, s.Exec(ctx, "postgres", "CREATE DATABASE "+name)
}

// SchemaURL makes an empty schema in the database postgres, which costs much less than a database, and returns its URL.
func (s *Server) SchemaURL(ctx context.Context) (string, error) {
	name := fmt.Sprintf("keys_%d", made.Add(1))
	return s.URL("postgres") + "&search_path=" + name, s.Exec(ctx, "postgres", "CREATE SCHEMA "+name)
}

// Exec runs a statement.
func (s *Server) Exec(ctx context.Context, database, statement string) error {
	c, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, statement)
	return errors.Join(err, c.Close(ctx))
}

// Standby makes and starts a server that follows this one by streaming.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	b := &Server{bin: s.bin}
	if err := b.place(); err != nil {
		return nil, err
	}
	source := fmt.Sprintf("host=%s port=%d user=postgres application_name=standby", s.Dir, s.Port)
	err := b.run(ctx, "pg_basebackup", "-D", b.data(), "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")
	if err == nil {
		err = b.Run(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, b.Remove())
	}
	return b, nil
}

// Promote makes a standby the primary.
func (s *Server) Promote(ctx context.Context) error {
	return s.run(ctx, "pg_ctl", "promote", "-D", s.data(), "-w")
}

// Log returns what the server has written.
func (s *Server) Log() string {
	log, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	return string(bytes.TrimSpace(log))
}

// Pooler starts a PgBouncer in front of the server, which gives each transaction another session.
func (s *Server) Pooler(ctx context.Context) (*Server, error) {
	bouncer, err := pgbouncer(ctx)
	if err != nil {
		return nil, err
	}
	p := &Server{}
	if err := p.place(); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`[databases]
* = host=%s port=%d user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir = %s
auth_type = any
pool_mode = transaction
default_pool_size = 5
`, s.Dir, s.Port, p.Port, p.Dir)
	file := filepath.Join(p.Dir, "pgbouncer.ini")
	err = os.WriteFile(file, []byte(conf), 0o644)
	if err == nil {
		err = p.start(ctx, bouncer, "-q", file)
	}
	if err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	return p, nil
}

func pgbouncer(ctx context.Context) (string, error) {
	const path = "/usr/sbin/pgbouncer" // of Debian, and not in every PATH
	if found, err := exec.LookPath("pgbouncer"); err == nil {
		return found, nil
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, install(ctx, "pgbouncer")
}
