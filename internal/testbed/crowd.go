package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// Order is what a crowd of clients is to do: the program crowd carries it out.
type Order struct {
	Site    string // its folder
	Sidecar string
	// Key is what all ask for; "": each time a random one, which nobody has minted.
	Key string
	// Marked are some that are to be among these.
	Marked []string
	Checks int // in all
	// Lasts is when it ends although not all Checks have been sent; 0: never.
	Lasts time.Duration
	// PerSecond is an even rate; 0: as fast as they are answered.
	PerSecond int
}

// Crowd sends a crowd to a sidecar and waits until all have been answered. It
// counts the answers by reason.
func (s *Site) Crowd(ctx context.Context, order Order) (map[string]int, error) {
	const marked = 100
	order.Site = s.Dir
	for range marked {
		order.Marked = append(order.Marked, s.Unknown().Reveal())
	}
	text, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	cmd := s.command(ctx, filepath.Join(s.bin, "loadgen"))
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var answers map[string]int
	return answers, json.Unmarshal(out, &answers)
}
