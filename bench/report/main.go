// Command report makes the tables and plots of docs/performance.md from the results of the benchmarks. It needs the results of all
// benchmarks, from one machine. It runs in the root of the repository.
//
// Without arguments it makes them again from docs/performance/results.json, after a change of the text or of the plots. With the
// files that the benchmarks have written by -json, it first replaces results.json.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phantomrouter/phantom-authz/bench/result"
)

func main() {
	flag.Parse()
	if err := run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

const (
	document = "docs/performance.md"
	folder   = "docs/performance" // of the plots and results
)

func run(files []string) error {
	stored := filepath.Join(folder, "results.json")
	if len(files) > 0 {
		results, err := result.Join(files)
		if err != nil {
			return err
		}
		if err := results.Save(stored); err != nil {
			return err
		}
	}
	results, err := result.Load(stored)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	filled, err := results.Fill(string(text))
	if err != nil {
		return err
	}
	pictures, err := results.Draw(result.Plots())
	if err != nil {
		return err
	}
	for name, picture := range pictures {
		if err := os.WriteFile(filepath.Join(folder, name), picture, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(document, []byte(filled), 0o644)
}
