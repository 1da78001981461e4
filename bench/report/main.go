// Command report makes the tables and plots of docs/performance.md from docs/performance/results.json, or those of another page of
// docs. Arguments are files that benchmarks have written by -json: they replace the earlier results of these benchmarks first. All
// must be of one machine. The command runs in the root of the repository.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phantomrouter/phantom-authz/bench/result"
)

var page = flag.String("page", "performance", "name of the page in docs, without .md")

// plots are those of a page, besides the charts of its results.
var plots = map[string][]result.Plot{"performance": result.Plots()}

func main() {
	flag.Parse()
	if err := run(*page, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

const folder = "docs"

func run(page string, files []string) error {
	document := filepath.Join(folder, page+".md")
	stored := filepath.Join(folder, page, "results.json")
	results, err := result.Load(stored)
	if err != nil {
		return err
	}
	if results, err = results.Replace(files); err != nil {
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
	pictures, err := results.Draw(plots[page])
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(stored), 0o755); err != nil {
		return err
	}
	if err := results.Save(stored); err != nil {
		return err
	}
	for name, picture := range pictures {
		if err := os.WriteFile(filepath.Join(folder, name), picture, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(document, []byte(filled), 0o644)
}
