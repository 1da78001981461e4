package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// probeTime is how long a notification of our own may take to come back.
	probeTime = 2 * time.Second
	// listenAgain is the pause before the next attempt. Nothing depends on it: whoever
	// waits looks each second.
	listenAgain = 10 * time.Second
)

// listen wakes all who wait when another process has changed something, until ctx
// ends. It has a connection of its own.
func (s *Store) listen(ctx context.Context) {
	for ctx.Err() == nil {
		s.hear(ctx)
		s.changed.Wake() // whatever was missed
		timer := time.NewTimer(listenAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// hear listens until the connection ends. Through a pooler that gives each
// transaction another session nothing would ever come: our own probe shows that.
func (s *Store) hear(ctx context.Context) {
	conf := s.pool.Config()
	conf.ConnConfig.DialFunc = dialer.DialContext // silence is what is mostly heard here
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

// await waits for a notification. If there is none for a while it asks whether the server is
// still there.
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
