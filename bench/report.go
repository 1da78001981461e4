package bench

import (
	"flag"
	"fmt"
	"os"

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

// mostOthers is the share of the cores that other programs may use without a warning. Smaller warns of the measuring itself.
const mostOthers = 0.1

// write writes the file of the flag -json. It warns if other programs have disturbed the benchmark.
func write(name string, m Meter) error {
	if len(reported.Tables) == 0 { // a part of a benchmark in its own process
		return nil
	}
	reported.Bench = name
	if m.Describe(&reported); reported.Others > mostOthers {
		fmt.Fprintf(os.Stderr, "%s: other programs used %.0f %% of the cores: repeat it on an idle machine\n", name, 100*reported.Others)
	}
	if *jsonFile == "" {
		return nil
	}
	return reported.Write(*jsonFile)
}
