package bench

import (
	"flag"
	"fmt"
	"time"

	"github.com/phantomrouter/phantom-authz/bench/result"
)

var jsonFile = flag.String("json", "", "also write the results to this file, as JSON")

// reported is what the benchmark has measured so far. A program is one benchmark.
var reported result.File

// Report prints a table, and adds it to the file of the flag -json, which Main writes.
func Report(t result.Table) {
	fmt.Println(t.Markdown())
	reported.Tables = append(reported.Tables, t)
}

// ReportGoals prints whether goals are reached, and adds them to the file of the flag -json.
func ReportGoals(goals ...result.Goal) {
	fmt.Println(result.GoalsMarkdown(goals))
	reported.Goals = append(reported.Goals, goals...)
}

// write writes the file of the flag -json.
func write(name string, took time.Duration) error {
	if *jsonFile == "" || len(reported.Tables) == 0 {
		return nil
	}
	reported.Bench, reported.Machine, reported.Seconds = name, machine(), took.Round(time.Second).Seconds()
	return reported.Write(*jsonFile)
}
