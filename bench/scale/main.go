// Command scale measures keyd with a million keys and with thousands of sidecars.
//
// Keys: for each engine, the same measurements in a store with a thousand keys (the
// baseline) and with all of them, in the same process of keyd: resolve of one digest
// and of a thousand over the sidecars' API, mint and revoke by 16 operators at once,
// the size on disk. The keys come by the bulk import of the operators' API, whose rate
// is told.
//
// Sidecars: for each engine, one keyd, and so many long polls open, each on its own connection: keyd's
// memory and processor for each, and the time from a revocation to the last
// acknowledgement, against the same with none and with a tenth of them.
//
// Keyd and PostgreSQL are processes of their own on this machine, and so compete with
// the load for its cores. docs/scale.md tells what came out and what follows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

func main() {
	b := &bench{}
	flag.IntVar(&b.keys, "keys", 1_000_000, "keys in the store, 0 leaves this part out")
	flag.IntVar(&b.sidecars, "sidecars", 5000, "sidecars at once, 0 leaves this part out")
	flag.IntVar(&b.rounds, "rounds", 20, "revocations with all sidecars")
	engines := flag.String("engines", "sqlite,postgres", "the engines to measure")
	flag.Parse()
	if err := b.run(context.Background(), strings.Split(*engines, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

type bench struct {
	keys, sidecars, rounds int
	postgres               *pgtest.Server // nil: not started
	database               string         // of the latest site on it
}

func (b *bench) run(ctx context.Context, engines []string) (err error) {
	defer func() {
		if b.postgres != nil {
			err = errors.Join(err, b.postgres.Remove())
		}
	}()
	if b.keys > 0 {
		if err := b.allKeys(ctx, engines); err != nil {
			return err
		}
	}
	if b.sidecars > 0 {
		return b.fleets(ctx, engines)
	}
	return nil
}

// in runs do with a keyd over an empty store of that engine.
func (b *bench) in(ctx context.Context, engine string, do func(*testbed.Testbed, *testbed.Process) error) error {
	config := testbed.Config{"log": testbed.Config{"level": "info"}}
	switch engine {
	case "sqlite":
	case "postgres":
		store, err := b.onPostgres(ctx)
		if err != nil {
			return err
		}
		config["store"] = store
	default:
		return fmt.Errorf("-engines: %q is none, there are sqlite and postgres", engine)
	}
	return testbed.Run(ctx, func(site *testbed.Testbed) error {
		keyd, err := site.StartKeyd(ctx, config)
		if err != nil {
			return err
		}
		return do(site, keyd)
	}, "cmd/keyd")
}

// onPostgres names an empty database.
func (b *bench) onPostgres(ctx context.Context) (url string, err error) {
	if b.postgres == nil {
		if b.postgres, err = pgtest.Start(ctx, "max_wal_size=4GB", "shared_buffers=1GB"); err != nil {
			return "", err
		}
	}
	b.database, err = b.postgres.Database(ctx)
	return b.postgres.URL(b.database), err
}
