// Command scale measures keyd with a million keys and with thousands of sidecars, for each engine.
//
// Keys: the same measurements with a thousand keys (the baseline) and with all keys, in the same process of keyd: resolving one
// and a thousand digests through the sidecars' API, mints and revocations of 16 concurrent operators, and the size on disk. A
// bulk import through the operators' API, whose rate is reported, makes the keys.
//
// Sidecars: one keyd with many long polls, each on its own connection: memory and processor time of keyd for each sidecar, and the
// time from a revocation to the last acknowledgement, with none, a tenth and all of them.
//
// Keyd and PostgreSQL are separate processes on this machine and share its cores with the load. docs/scale.md has the results.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

var (
	keyCount     = flag.Int("keys", 1_000_000, "keys in the store; 0: skip this part")
	sidecarCount = flag.Int("sidecars", 5000, "concurrent sidecars; 0: skip this part")
	rounds       = flag.Int("rounds", 20, "revocations with each number of sidecars")
	engines      = flag.String("engines", "sqlite,postgres", "the engines to measure")
)

func main() {
	bench.Main(func(ctx context.Context) (err error) {
		s := &stores{}
		defer func() { err = errors.Join(err, s.remove()) }()
		if *keyCount > 0 {
			if err := measureKeys(ctx, s); err != nil {
				return err
			}
		}
		if *sidecarCount > 0 {
			return measureSidecars(ctx, s)
		}
		return nil
	})
}

// stores makes stores of the engines.
type stores struct {
	postgres *pgtest.Server // nil: not started
	database string         // the latest one
}

func (s *stores) remove() error {
	if s.postgres == nil {
		return nil
	}
	return s.postgres.Remove()
}

// each runs do for each engine with a keyd that has an empty store.
func (s *stores) each(ctx context.Context, do func(engine string, tb *testbed.Testbed, keyd *testbed.Process) error) error {
	for engine := range strings.SplitSeq(*engines, ",") {
		config, err := s.config(ctx, engine)
		if err != nil {
			return err
		}
		err = testbed.Run(ctx, func(tb *testbed.Testbed) error {
			keyd, err := tb.StartKeyd(ctx, config)
			if err != nil {
				return err
			}
			return do(engine, tb, keyd)
		}, "cmd/keyd")
		if err != nil {
			return fmt.Errorf("%s: %w", engine, err)
		}
	}
	return nil
}

// config returns a configuration of keyd with an empty store.
func (s *stores) config(ctx context.Context, engine string) (config testbed.Config, err error) {
	config = bench.Quiet()
	switch engine {
	case "sqlite":
		return config, nil
	case "postgres":
		if s.postgres == nil {
			if s.postgres, err = pgtest.Start(ctx, "fsync=on", "max_wal_size=4GB", "shared_buffers=1GB"); err != nil {
				return nil, err
			}
		}
		s.database, err = s.postgres.Database(ctx)
		config["store"] = s.postgres.URL(s.database)
		return config, err
	default:
		return nil, fmt.Errorf("-engines is invalid: %q must be sqlite or postgres", engine)
	}
}
