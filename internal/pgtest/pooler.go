package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Pooler starts a PgBouncer before the server that gives each transaction another session.
func (s *Server) Pooler(ctx context.Context) (*Server, error) {
	bouncer, err := pgbouncer(ctx)
	if err != nil {
		return nil, err
	}
	p := &Server{}
	if err := p.place(ctx); err != nil {
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
		err = p.bounce(ctx, bouncer, file)
	}
	if err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	return p, nil
}

func (s *Server) bounce(ctx context.Context, bouncer, file string) error {
	log, err := os.Create(filepath.Join(s.Dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	if err := s.start(s.command(context.WithoutCancel(ctx), bouncer, "-q", file), log); err != nil {
		return err
	}
	return s.await(ctx)
}

func pgbouncer(ctx context.Context) (string, error) {
	const path = "/usr/sbin/pgbouncer" // Debian's place, which not every PATH has
	if found, err := exec.LookPath("pgbouncer"); err == nil {
		return found, nil
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, install(ctx, "pgbouncer")
}
