package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// probeTime is how long a notification of this process may take to arrive. Smaller gives up on a slow server; larger finds
	// out later that a pooler passes on no notifications.
	probeTime = 2 * time.Second
	// listenAgain is the pause before the next attempt. Smaller makes more connections to a server that is away; larger makes
	// changes of other processes visible only each second for longer.
	listenAgain = 10 * time.Second
)

// listen wakes all that wait on Changed when another process has changed something, until ctx ends.
func (s *Store) listen(ctx context.Context) {
	for ctx.Err() == nil {
		s.listenOnce(ctx)
		s.changed.Wake() // notifications may be lost
		select {
		case <-time.After(listenAgain):
		case <-ctx.Done():
		}
	}
}

// listenOnce listens on a separate connection until that ends. Behind a pooler in transaction mode no notification arrives;
// a notification that this process sends detects that.
func (s *Store) listenOnce(ctx context.Context) {
	conf := s.pool.Config()
	conf.ConnConfig.DialFunc = dialer.DialContext // this connection is mostly silent
	if err := conf.BeforeConnect(ctx, conf.ConnConfig); err != nil {
		return
	}
	c, err := pgx.ConnectConfig(ctx, conf.ConnConfig)
	if err != nil {
		return
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	}()
	if _, err := c.Exec(ctx, "LISTEN "+channel); err != nil {
		return
	}
	if _, err := s.db.ExecContext(ctx, "SELECT pg_notify($1, 'probe')", channel); err != nil {
		return
	}
	probe, cancel := context.WithTimeout(ctx, probeTime)
	_, err = c.WaitForNotification(probe)
	cancel()
	for err == nil {
		s.changed.Wake()
		err = await(ctx, c)
	}
}

// await waits for a notification. It pings the server when none arrives for a while.
func await(ctx context.Context, c *pgx.Conn) error {
	for {
		waits, cancel := context.WithTimeout(ctx, silence)
		_, err := c.WaitForNotification(waits)
		quiet := waits.Err() != nil && ctx.Err() == nil
		cancel()
		if !quiet {
			return err
		}
		pings, cancel := context.WithTimeout(ctx, probeTime)
		err = c.Ping(pings)
		cancel()
		if err != nil {
			return err
		}
	}
}
