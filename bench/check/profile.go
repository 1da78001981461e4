package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// writeProfile sends each load to authzd for the duration of a round, and writes to a file where authzd spends its CPU time.
func writeProfile(ctx context.Context, file string, authzd *testbed.Process, socket string, messages [][]byte) error {
	var group errgroup.Group
	group.Go(func() error {
		seconds := int(duration.Round(time.Second).Seconds()) * len(shapes)
		text, err := testbed.Get(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", authzd.Admin(), max(1, seconds)))
		if err != nil {
			return err
		}
		return os.WriteFile(file, text, 0o644)
	})
	for _, s := range shapes {
		if _, err := runRound(authzd.Pid(), socket, messages, s); err != nil {
			return err
		}
	}
	return group.Wait()
}
